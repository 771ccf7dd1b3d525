"""`model.save`: a folder that Quire, transformers and sentence-transformers open with equal outputs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import quire
from quire import Sampling
from quire.errors import ModelError, RecipeError, StorageError
from tests.families.gguf_files import model as gguf_model
from tests.small import TASK, write_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
GREEDY = Sampling(temperature=0.0, max_tokens=12)


def written_by_transformers(folder, auto, prompt):
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(folder)
    row = words(prompt, return_tensors="pt", return_token_type_ids=False)
    theirs = getattr(transformers, auto).from_pretrained(folder).eval()
    whole = theirs.generate(**row, max_new_tokens=12, do_sample=False)[0]
    skip = 1 if auto == "AutoModelForSeq2SeqLM" else row.input_ids.shape[1]
    ids = whole[skip:].tolist()
    return ids, words.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("family", list(TASK))
def test_a_saved_model_is_the_same_model_and_opens_in_transformers(tmp_path, family):
    from transformers import AutoModel

    folder = write_model(tmp_path / "m", family, template=family == "llama", lineage={"task": TASK[family]})
    model = quire.load(folder)
    assert model.save(tmp_path / "saved") == tmp_path / "saved"
    again = quire.load(tmp_path / "saved", verify=True)
    assert again.identity == model.identity and type(again) is type(model)
    assert again.binding.recorded["lineage"] == {"task": TASK[family], "parent": model.identity}
    if family == "bert":
        assert np.array_equal(again.hidden(["The quick"])[0], model.hidden(["The quick"])[0])
        ids = torch.tensor([model.contract.whole("The quick")])
        with torch.inference_mode():
            theirs = AutoModel.from_pretrained(tmp_path / "saved").eval()(ids).last_hidden_state[0].numpy()
        np.testing.assert_allclose(theirs, model.hidden(["The quick"])[0], atol=1e-4)
    else:
        wanted = model.generate("The quick", GREEDY)
        assert again.generate("The quick", GREEDY) == wanted
        auto = "AutoModelForSeq2SeqLM" if family == "t5" else "AutoModelForCausalLM"
        assert written_by_transformers(tmp_path / "saved", auto, "The quick") == (list(wanted.ids), wanted.text)
    assert (tmp_path / "saved" / "chat_template.jinja").exists() == (family == "llama")


def test_the_real_sentence_encoder_keeps_what_makes_its_vectors(tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import AutoTokenizer

    model, texts = quire.load("minilm"), ["The quick brown fox", "für Größe", "x " * 400]
    saved = model.save(tmp_path / "saved")
    wanted = model.embed(texts, long="cut")
    again = quire.load(saved)
    assert again.sentence == model.sentence and np.array_equal(again.embed(texts, long="cut"), wanted)
    theirs = SentenceTransformer(str(saved), device="cpu")
    assert np.abs(theirs.encode(texts) - wanted).max() < 1e-5
    row = AutoTokenizer.from_pretrained(saved)("a", "b c")
    assert (row["input_ids"], row["token_type_ids"]) == model.contract.pair("a", "b c")
    half = quire.load(model.save(tmp_path / "half", dtype="bf16"))
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 0.51 * (saved / "model.safetensors").stat().st_size
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert (half.embed(texts[:2]) * wanted[:2]).sum(1).min() > 0.999


def test_a_gguf_file_becomes_a_folder(tmp_path):
    model = quire.load(gguf_model(tmp_path / "tiny.gguf"))
    again = quire.load(model.save(tmp_path / "saved"))
    wanted = model.generate("ab", GREEDY)
    assert again.generate("ab", GREEDY) == wanted and again.contract.id == model.contract.id
    ids, _ = written_by_transformers(tmp_path / "saved", "AutoModelForCausalLM", "ab")
    assert ids == list(wanted.ids)  # a run of bytes that is no text becomes other signs of that there


def test_nothing_is_overwritten_and_what_is_not_understood_is_not_lost(tmp_path):
    folder = write_model(tmp_path / "m", "bert")
    model = quire.load(folder)
    for place in (folder, folder / "config.json"):
        with pytest.raises(StorageError, match="is not an empty folder. Give a new one"):
            model.save(place)
    with pytest.raises(RecipeError, match="dtype is 'fp8'; allowed: fp32, bf16, fp16, None"):
        model.save(tmp_path / "new", dtype="fp8")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.LSTM", "path": "1_LSTM"}]')
    with pytest.raises(ModelError, match="models.LSTM', which is not understood"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()
