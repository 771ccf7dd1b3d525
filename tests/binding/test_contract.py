"""The contract: saved in stock form, read back equal, equal to what transformers makes of the same folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from quire.binding import Contract
from quire.binding.contract import around, framed
from quire.errors import DataError, ModelError
from quire.text.template import CHATML, Template
from quire.types import Message
from tests.small import TASK, tokenizer, write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("contracts")
    return {family: write_model(place / family, family, template=family == "llama") for family in TASK}


def chat_contract() -> Contract:
    words = tokenizer("causal")
    return Contract(words, Template(CHATML, words.special))


@pytest.mark.parametrize("family", list(TASK))
def test_what_is_saved_is_read_back_with_the_same_id(folders, family, tmp_path):
    contract = Contract.open(folders[family])
    contract.save(tmp_path)
    (tmp_path / "config.json").write_bytes((folders[family] / "config.json").read_bytes())
    again = Contract.open(tmp_path)
    assert again.facts == contract.facts and again.id == contract.id


@pytest.mark.parametrize("family", list(TASK))
def test_transformers_reads_the_same_ids_around_a_text(folders, family):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folders[family])
    contract = Contract.open(folders[family])
    for text in ("def parse_line", "Größe 12, señor", ""):
        assert theirs(text)["input_ids"] == contract.whole(text)
    if TASK[family] == "masked":
        pair = theirs("a", "b", return_token_type_ids=True)
        assert pair["input_ids"].count(contract.tokenizer.sep) == 2
        assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


def test_transformers_gives_types_to_pairs_of_models_that_have_them(folders):
    """Without being asked for them: transformers 5 leaves them out where tokenizer_config.json does not list them."""
    from transformers import AutoTokenizer

    for family, typed in (("bert", True), ("llama", False), ("t5", False)):
        contract = Contract.open(folders[family])
        row = AutoTokenizer.from_pretrained(folders[family])("a", "b c")
        ids, types = contract.pair("a", "b c")
        assert row["input_ids"] == ids and ("token_type_ids" in row) == typed
        assert not typed or row["token_type_ids"] == types


def test_transformers_reads_the_same_stop_rule_and_conversation(folders):
    from transformers import AutoTokenizer, GenerationConfig

    contract = Contract.open(folders["llama"])
    words = contract.tokenizer
    assert set(contract.stop_ids) == {words.eos, words.token_id("<|im_end|>")}
    assert set(GenerationConfig.from_pretrained(folders["llama"]).eos_token_id) == set(contract.stop_ids)
    messages = [Message("user", "def?"), Message("assistant", "yes"), Message("user", "fox")]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    theirs = AutoTokenizer.from_pretrained(folders["llama"]).apply_chat_template(plain, add_generation_prompt=True)
    assert list(theirs["input_ids"]) == contract.template.encode(words, messages, add_generation_prompt=True).ids


def test_a_new_contract_stops_where_the_template_ends_a_turn():
    contract = chat_contract()
    assert contract.turn_end == (contract.tokenizer.token_id("<|im_end|>"),)
    assert contract.stop_ids == (contract.tokenizer.eos, *contract.turn_end)
    assert contract.mask_rule == "generation marks"
    assert Contract(tokenizer("causal")).mask_rule == "every token"
    assert Contract(tokenizer("causal")).stop_ids == (tokenizer("causal").eos,)


def test_a_document_begins_as_in_training():
    words = tokenizer("causal")
    assert Contract(words).prompt("fox") == [words.bos, *words.encode("fox")]
    masked = Contract(tokenizer("masked"))
    assert masked.whole("fox")[0] == masked.tokenizer.cls and masked.whole("fox")[-1] == masked.tokenizer.sep
    denoise = Contract(tokenizer("denoise"))
    assert denoise.before == () and denoise.after == (denoise.tokenizer.eos,)


def test_a_tokenizer_that_says_what_stands_around_a_text_is_left_as_it_is(folders):
    own = framed(tokenizer("causal"))
    assert framed(own) is own
    opened = Contract.open(folders["gpt2"])
    assert Contract(opened.tokenizer).tokenizer is opened.tokenizer


def test_every_part_changes_the_id():
    contract = chat_contract()
    words = contract.tokenizer
    others = [
        replace(contract, stop_ids=(words.eos,)),
        replace(contract, stop_strings=("\n\n",)),
        replace(contract, template=None),
        replace(contract, template=Template(CHATML.replace("assistant", "helper"), words.special)),
        replace(contract, decoder_start=0),
        replace(contract, tokenizer=framed(tokenizer("denoise"))),
    ]
    assert len({contract.id, *(other.id for other in others)}) == len(others) + 1
    assert replace(contract, defaults={"temperature": 0.3}).id == contract.id  # a temperature makes no other model


def test_generation_config_decides_over_config_and_keeps_its_other_values(folders, tmp_path):
    for file in folders["gpt2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    rule = {"eos_token_id": [3, 5], "stop_strings": "END", "do_sample": True, "temperature": 0.6, "transformers_version": "5.0.0"}
    (tmp_path / "generation_config.json").write_text(json.dumps(rule))
    contract = Contract.open(tmp_path)
    assert contract.stop_ids == (3, 5) and contract.stop_strings == ("END",)
    assert contract.defaults == {"do_sample": True, "temperature": 0.6}
    contract.save(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert saved["temperature"] == 0.6 and saved["stop_strings"] == ["END"] and saved["eos_token_id"] == [3, 5]


def test_an_empty_prompt_begins_a_text_or_is_refused(folders):
    contract = Contract.open(folders["llama"])
    assert contract.prompt("") == [contract.tokenizer.bos]
    bare = replace(Contract.open(folders["t5"]), stop_ids=())
    with pytest.raises(DataError, match="the prompt is empty, and this tokenizer has no begin-of-text token"):
        bare.prompt("")


def test_post_processors_of_other_tools():
    special = {"<s>": 1, "</s>": 2}
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    assert around(template, special) == ((1,), ())
    assert around({"type": "Sequence", "processors": [{"type": "ByteLevel"}, template]}, special) == ((1,), ())
    assert around({"type": "RobertaProcessing", "cls": ["<s>", 1], "sep": ["</s>", 2]}, special) == ((1,), (2,))
    assert around(None, special) == ((), ())
    for strange in ({"type": "Mystery"}, {"type": "TemplateProcessing"}, 7):
        with pytest.raises(ModelError, match="post_processor .* is not understood"):
            around(strange, special)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("generation_config.json", "[]", "must hold a JSON object"),
        ("generation_config.json", "{", "is not JSON"),
        ("generation_config.json", '{"eos_token_id": "</s>"}', "eos_token_id is '</s>'; allowed is an id"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", None, "holds no tokenizer.json"),
    ],
)
def test_damaged_files_are_named(folders, tmp_path, file, text, words):
    for source in folders["llama"].iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(ModelError) as caught:
        Contract.open(tmp_path)
    assert words in str(caught.value)
