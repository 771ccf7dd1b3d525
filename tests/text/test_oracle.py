"""transformers opens what we save and reads what others published with the same ids, special tokens and text."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from quire.text.tokenizer import Tokenizer
from quire.text.training import KINDS
from tests.text.texts import SPELLINGS, TEXTS

MODEL_TYPES: dict[str, dict[str, Any]] = {
    "none": {},
    "llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "gpt2": {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
    "bert": {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    "t5": {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
}
HARMLESS = [text for text in TEXTS if not any(spelling in text for spelling in SPELLINGS)]


def opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", list(MODEL_TYPES))
def test_saved_folders(trained: dict[str, Tokenizer], kind: str, model: str, tmp_path: Path) -> None:
    """Beside the config.json of any family: what transformers knows about a family must not change our tokenizer."""
    tokenizer = trained[kind]
    tokenizer.save(tmp_path)
    if MODEL_TYPES[model]:
        (tmp_path / "config.json").write_text(json.dumps(MODEL_TYPES[model]))
    reference = opened(tmp_path)
    for text in HARMLESS:
        ids = reference.encode(text, add_special_tokens=False)
        assert ids == tokenizer.encode(text)
        assert reference.decode(ids) == tokenizer.decode(ids, special=True)
        assert reference.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)
    assert len(reference) == tokenizer.vocab_size
    assert set(reference.all_special_tokens) == set(tokenizer.special_tokens)
    for role, spelling in tokenizer.special.items():
        assert getattr(reference, f"{role}_token") == spelling
        assert getattr(reference, f"{role}_token_id") == tokenizer.special_ids[role]
    for role in {"bos", "eos", "pad", "unk", "cls", "sep", "mask"} - set(tokenizer.special):
        assert getattr(reference, f"{role}_token") is None


def test_what_stands_around_a_text(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    expected = {"bpe": ([], []), "wordpiece": ([2], [3]), "unigram": ([], [1])}
    for kind, (before, after) in expected.items():
        trained[kind].save(tmp_path / kind)
        assert opened(tmp_path / kind).encode("the fox") == [*before, *trained[kind].encode("the fox"), *after]


def test_saved_again_by_transformers(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "ours")
    opened(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = Tokenizer.open(tmp_path / "theirs")
    assert again.special == bpe.special
    assert again.special_tokens == bpe.special_tokens
    assert [again.encode(text) for text in TEXTS] == [bpe.encode(text) for text in TEXTS]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["gpt2/tokenizer.json", "gpt-neox/20B_tokenizer.json"])
def test_published_files(data_folder: Path, name: str) -> None:
    import tokenizers

    path = data_folder / "tokenizers" / name
    tokenizer, library, reference = Tokenizer.open(path), tokenizers.Tokenizer.from_file(str(path)), _fast(path)
    stories = (data_folder / "corpora" / "tinystories_sample.txt").read_text()[:100_000].replace("<|endoftext|>", "\n")
    for text in [*HARMLESS, stories]:
        ids = tokenizer.encode(text)
        assert ids == library.encode(text, add_special_tokens=False).ids
        assert ids == reference.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids) == library.decode(ids)
        assert tokenizer.encode_batch([text]) == [ids]
    assert tokenizer.vocab_size == len(reference)
    assert tokenizer.eos == tokenizer.token_id("<|endoftext|>")


@pytest.mark.needs_data
def test_gpt2s_own_samples(gpt2: Tokenizer, data_folder: Path) -> None:
    """The texts and ids that llama.cpp publishes for this vocabulary."""
    folder = data_folder / "tokenizers" / "gguf"
    inputs = (folder / "ggml-vocab-gpt-2.gguf.inp").read_text().split("\n__ggml_vocab_test__\n")[:-1]  # the file ends with one
    outputs = (folder / "ggml-vocab-gpt-2.gguf.out").read_text().splitlines()
    assert len(inputs) == len(outputs) > 40
    for text, ids in zip(inputs, outputs):
        assert gpt2.encode(text) == [int(id) for id in ids.split()]
        assert gpt2.decode(gpt2.encode(text)) == text


def _fast(path: Path) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_file=str(path))
