"""Translation, summaries and other text for text: what the folder says is done, as the reference does it, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import quire
from quire import Sampling, Seq2Seq
from quire.binding import Contract
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.families import FAMILIES
from quire.families.folder import ModelFolder
from quire.nn.config import Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from quire.types import Beam
from tests.small import tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

TEXTS = ["The quick brown fox", "für Größe", "def parse_line(line):", "x", "jumps over the lazy dog. The lazy dog jumps"]
T5_TASKS = {
    "summarization": {
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 12,
        "min_length": 4,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "prefix": "summarize: ",
    },
    "translation_en_to_de": {"early_stopping": True, "max_length": 9, "num_beams": 3, "prefix": "translate English to German: "},
    "translation_en_to_fr": {"early_stopping": True, "max_length": 9, "num_beams": 2, "prefix": "translate English to French: "},
}


def write(folder: Path, family: str = "t5", generation: dict[str, Any] | None = None, **config: Any) -> Path:
    """A folder with random weights; `generation` goes into generation_config.json (None: there is none), `config` into config.json."""
    words = tokenizer("denoise")
    sizes = Sizes(words.vocab_size, 32, 2, 4, context=64, bos=words.bos, eos=words.eos, pad=words.pad)
    stock = FAMILIES[family].new(sizes) | config
    model = Transformer(FAMILIES[family].build(stock))
    draw = torch.Generator().manual_seed(5)
    initialise(model, draw)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.2)
    ModelFolder.save(folder, model, stock)
    Contract(words, None, decoder_start=stock["decoder_start_token_id"]).save(folder)
    path = folder / "generation_config.json"
    if generation is None:
        path.unlink()
    else:
        ids = {name: stock[name] for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id")}
        path.write_text(json.dumps(ids | generation))
    return folder


def opened(folder: Path) -> Seq2Seq:
    model = quire.load(folder)
    assert isinstance(model, Seq2Seq)
    return model


def reference(folder: Path, texts: list[str], **how: Any) -> list[str]:
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    found = []
    for text in texts:
        row = words(text, return_tensors="pt")
        ids = model.generate(row.input_ids, attention_mask=row.attention_mask, **how)[0]
        found.append(words.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return found


def plain(texts: list[quire.Completion]) -> list[str]:
    return [text.text for text in texts]


def test_task_parameters_of_the_config_are_honoured(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", task_specific_params=T5_TASKS)
    model = opened(folder)

    def wanted(task: str) -> list[str]:
        how = dict(T5_TASKS[task])
        prefix = str(how.pop("prefix"))
        return reference(folder, [prefix + text for text in TEXTS], **how)

    assert plain(model.summarize(TEXTS)) == wanted("summarization")
    assert plain(model.translate(TEXTS, target="de")) == wanted("translation_en_to_de")
    assert plain(model.translate(TEXTS, source="en", target="fr")) == wanted("translation_en_to_fr")
    assert model.translate(["x"], target="fr")[0].prompt_tokens == len(model.contract.whole("translate English to French: x"))


def test_a_translation_that_is_not_there_or_not_clear_lists_what_is(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m", task_specific_params=T5_TASKS))
    with pytest.raises(RecipeError, match="source None and target None fit 2 of its translations.*has: en to de, en to fr"):
        model.translate(TEXTS)
    with pytest.raises(RecipeError, match="source None and target 'ro' fit none of its translations.*en to de, en to fr. Give source"):
        model.translate(TEXTS, target="ro")
    bare = opened(write(tmp_path / "bare"))
    with pytest.raises(RecipeError, match="names no languages to choose from"):
        bare.translate(TEXTS, target="de")
    assert len(bare.translate(TEXTS[:2], Beam(2, max_tokens=3))) == 2


@pytest.mark.parametrize(
    ("family", "generation"),
    [
        ("t5", {"num_beams": 3, "max_new_tokens": 7, "repetition_penalty": 1.3, "bad_words_ids": [[300], [301]]}),
        ("t5", {"max_length": 6, "min_length": 3}),
        ("bart", {"num_beams": 4, "length_penalty": 2.0, "forced_bos_token_id": 9, "forced_eos_token_id": 1, "max_length": 9}),
        ("marian", {"num_beams": 2, "forced_eos_token_id": 1, "max_length": 8, "no_repeat_ngram_size": 2}),
        ("marian", {"forced_eos_token_id": 1, "max_length": 8, "forced_bos_token_id": 11}),
    ],
)
def test_the_generation_config_is_honoured(tmp_path: Path, family: str, generation: dict[str, Any]) -> None:
    folder = write(tmp_path / "m", family, generation)
    assert plain(opened(folder).text2text(TEXTS)) == reference(folder, TEXTS)


def test_old_folders_say_it_in_config_json(tmp_path: Path) -> None:
    """Without generation_config.json; BART's forced end is its config class's default there."""
    folder = write(tmp_path / "m", "bart", None, num_beams=3, max_length=7, forced_eos_token_id=1)
    found = opened(folder).text2text(TEXTS)
    assert plain(found) == reference(folder, TEXTS, num_beams=3, max_length=7, forced_eos_token_id=1)
    assert all(len(text.ids) <= 6 for text in found)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_what_an_old_folder_says_is_written_when_it_is_saved(tmp_path: Path, family: str) -> None:
    """transformers looks into config.json for it only as long as there is no generation_config.json."""
    folder = write(tmp_path / "m", family, None, num_beams=3, max_length=9, length_penalty=2.0, min_length=4)
    before = plain(opened(folder).text2text(TEXTS))
    Contract.open(folder).save(folder)
    said = json.loads((folder / "generation_config.json").read_text())
    assert (said["num_beams"], said["length_penalty"]) == (3, 2.0)
    assert said.get("forced_eos_token_id") == (1 if family == "bart" else None)
    assert plain(opened(folder).text2text(TEXTS)) == before == reference(folder, TEXTS)
    assert Contract.open(folder).defaults == {name: value for name, value in said.items() if "token_id" not in name or "forced" in name}


def test_many_sources_are_read_together_and_give_the_text_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(write(tmp_path / "m", "t5"))
    for how in (
        Sampling(temperature=0.0, max_tokens=9),
        Sampling(seed=3, max_tokens=9),
        Sampling(temperature=0.0, max_tokens=9, stop=("e",)),
    ):
        alone = [model.generate(text, how) for text in TEXTS]
        with monkeypatch.context() as patch:
            patch.setattr(Seq2Seq, "_complete", lambda *_: pytest.fail("one after another"))
            assert model.generate(TEXTS, how) == alone
    assert model.generate([]) == []
    with pytest.raises(DataError, match="row 1: a text is needed, not NoneType"):
        model.translate(["x", None])  # type: ignore[list-item]


def test_a_prefix_may_stand_in_the_config_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "bart", {"max_length": 5}, prefix="fox ")
    model = opened(folder)
    assert model.summarize(["x"])[0].prompt_tokens == len(model.contract.whole("fox x"))


def test_sampling_as_the_folder_says_and_seeded_as_the_caller_says(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", "t5", {"do_sample": True, "temperature": 0.5, "top_k": 3, "max_new_tokens": 5})
    model = opened(folder)
    assert all(len(text.ids) <= 5 for text in model.text2text(TEXTS))
    seeded = Sampling(seed=3, max_tokens=9)
    together = model.text2text(TEXTS, seeded)
    assert together == model.text2text(TEXTS, seeded)
    assert [model.text2text([text], seeded)[0].ids for text in TEXTS] == [text.ids for text in together]
    assert [text.ids for text in together] == [model.generate(text, seeded).ids for text in TEXTS]


def test_the_folders_ids_hold_whoever_decides_the_rest(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m", "bart", {"forced_bos_token_id": 9, "bad_words_ids": [[20], [21]], "forced_eos_token_id": 1}))
    for how in (Beam(2, max_tokens=4), Sampling(seed=1, max_tokens=4), Sampling(temperature=0.0, max_tokens=4)):
        for text in model.text2text(TEXTS, how):
            assert text.ids[0] == 9 and not {20, 21} & set(text.ids) and (len(text.ids) < 4 or text.ids[-1] == 1)


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"encoder_no_repeat_ngram_size": 3}, "asks for encoder_no_repeat_ngram_size = 3, which is not computed here"),
        ({"suppress_tokens": [4]}, r"asks for suppress_tokens = \[4\]"),
        ({"num_beam_groups": 2, "diversity_penalty": 0.5}, "asks for num_beam_groups = 2"),
        ({"early_stopping": "never", "num_beams": 2}, "early_stopping is 'never'; allowed is true or false"),
        ({"do_sample": True, "num_beams": 4}, "asks for sampling with num_beams = 4"),
        ({"do_sample": True, "no_repeat_ngram_size": 2}, "asks for sampling with no_repeat_ngram_size = 2"),
        ({"num_beams": "many"}, "num_beams is 'many'; allowed is a whole number"),
    ],
)
def test_what_is_not_computed_is_refused_unless_the_caller_decides(tmp_path: Path, generation: dict[str, Any], message: str) -> None:
    model = opened(write(tmp_path / "m", "t5", generation))
    with pytest.raises(ModelError, match=message):
        model.text2text(TEXTS)
    assert model.text2text(["x"], Beam(1, max_tokens=2))


def test_words_of_several_tokens_cannot_be_forbidden(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m", "t5", {"bad_words_ids": [[5], [6, 7]]}))
    with pytest.raises(ModelError, match="bad_words_ids is .*words of several tokens cannot be forbidden"):
        model.text2text(TEXTS, Beam(2, max_tokens=3))


def test_a_field_that_nobody_knows_is_named(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m", "t5", {"max_new_tokens": 2, "sparkle": 3, "use_cache": False, "output_scores": True}))
    with pytest.warns(RuntimeWarning, match="has sparkle, which nothing here reads"):
        model.text2text(["x"])


def test_texts_that_are_too_long_are_refused_or_cut_with_numbers(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m"))
    texts = ["x", "fox dog " * 60]
    with pytest.raises(ContextError, match=r"text 1 has \d+ tokens.*this model reads 64"):
        model.text2text(texts, Beam(2, max_tokens=3))
    cut: list[int] = []
    found = model.text2text(texts, Beam(2, max_tokens=3), long="cut", cut=cut)
    assert cut[0] == 0 and cut[1] > 0 and found[1].prompt_tokens == 64
    with pytest.raises(DataError, match="a list of texts is needed"):
        model.text2text("x")


def test_many_texts_of_mixed_length_come_back_in_order(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m"))
    texts = ["fox " * (1 + 7 * number % 13) + str(number) for number in range(150)]
    seen: list[int] = []
    how = Beam(3, max_tokens=4)
    found = model.text2text(texts, how, progress=seen.append)
    assert seen[-1] == 150 and len(seen) > 2 and seen == sorted(seen)
    for number in (0, 17, 149):
        assert model.text2text([texts[number]], how)[0].ids == found[number].ids
    assert model.text2text([], how) == []


def test_how_is_checked(tmp_path: Path) -> None:
    model = opened(write(tmp_path / "m"))
    with pytest.raises(RecipeError, match="beam: width is 0"):
        model.text2text(["x"], Beam(0))
    with pytest.raises(RecipeError, match="temperature is -1"):
        model.text2text(["x"], Sampling(temperature=-1.0))
    with pytest.raises(RecipeError, match="allowed: a Sampling, a Beam, or None"):
        model.text2text(["x"], "greedy")  # type: ignore[arg-type]
