"""Vocabularies of GGUF files: ids equal to llama.cpp's own test vectors, special ids, and what is refused.

The vocabulary files that come with the vectors were damaged on their way (their bytes went through a text decoder), so the vocabularies are
built here from the published tokenizers; the damaged files are what a broken download looks like.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.binding import gguf as container
from quire.binding.contract import Contract
from quire.errors import ModelError, WeightsError
from quire.text.gguf import definition
from quire.text.tokenizer import Tokenizer

Json = dict[str, Any]


def spm_values(model: Path) -> Json:
    """What llama.cpp's converter writes for a SentencePiece model."""
    import sentencepiece

    read = sentencepiece.SentencePieceProcessor(model_file=str(model))
    count = read.vocab_size()
    kinds = [2 if read.is_unknown(i) else 3 if read.is_control(i) else 6 if read.is_byte(i) else 1 for i in range(count)]
    names = {"bos_token_id": read.bos_id(), "eos_token_id": read.eos_id(), "unknown_token_id": read.unk_id()}
    listed = {"tokens": [read.id_to_piece(i) for i in range(count)], "scores": [read.get_score(i) for i in range(count)]}
    values = {"model": "llama", "pre": "default", "token_type": kinds, "padding_token_id": 2**32 - 1, **listed, **names}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def gpt2_values(folder: Path) -> Json:
    ids = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    merges = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    tokens = sorted(ids, key=ids.__getitem__)
    values = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "token_type": [1] * 50256 + [3], "merges": [m for m in merges if m]}
    return {f"tokenizer.ggml.{key}": value for key, value in (values | {"bos_token_id": 50256, "eos_token_id": 50256}).items()}


def tokenizer(values: Json) -> Tokenizer:
    return Tokenizer(*definition(values, "x.gguf"))


def vectors(path: Path) -> list[tuple[str, list[int]]]:
    texts = path.with_name(path.name + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    rows = path.with_name(path.name + ".out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(id) for id in row.split()]) for text, row in zip(texts, rows)]


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
def test_ids_are_those_of_llama_cpp(data_folder: Path, name: str) -> None:
    folder = data_folder / "tokenizers"
    made = tokenizer(spm_values(folder / "llama2" / "tokenizer.model") if name == "llama-spm" else gpt2_values(folder / "gpt2"))
    pairs = vectors(folder / "gguf" / f"ggml-vocab-{name}.gguf")
    assert len(pairs) >= 40
    for text, ids in pairs:
        assert made.encode(text) == ids, text
        assert made.decode(ids) == text


@pytest.mark.needs_data
@pytest.mark.parametrize("name", ["llama-spm", "gpt-2"])
def test_a_file_whose_bytes_went_through_a_text_decoder_is_refused(data_folder: Path, name: str) -> None:
    with pytest.raises(WeightsError, match="is not a sound GGUF file: .*allowed are 65536. Fetch it again"):
        container.read(data_folder / "tokenizers" / "gguf" / f"ggml-vocab-{name}.gguf")


@pytest.mark.needs_data
def test_a_mistral_vocabulary_has_the_ids_of_sentencepiece(data_folder: Path) -> None:
    import sentencepiece

    model = data_folder / "tokenizers" / "mistral" / "tokenizer.model.v1"
    made, theirs = tokenizer(spm_values(model)), sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text in ("Hello  world", " two", "été 🦙\n\tx", "ￏ", "1234567 a\u0300", "▁odd"):
        assert made.encode(text) == theirs.encode(text), text


SMALL = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "▁a", "ab", "▁ab", "<|turn|>", "own"],
    "tokenizer.ggml.scores": [0.0] * 4 + [-5.0, -6.0, -7.0, -2.0, -1.0, -3.0, 0.0, 0.0],
    "tokenizer.ggml.token_type": [2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 3, 4],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}
BYTES = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "Ġ", "<|end|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 4,
}


def test_scores_decide_which_pieces_join() -> None:
    made = tokenizer(SMALL)
    assert made.encode("ab") == [9]  # ab joins first, then the mark before it; ▁a, though better than ▁ab, is never made
    assert tokenizer(SMALL | {"tokenizer.ggml.add_space_prefix": False}).encode("ab") == [8]
    assert made.special_ids == {"bos": 1, "eos": 2, "unk": 0}
    assert made.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<|turn|>": 10}
    assert made.encode("own")[-1] == 11
    assert 10 not in made.encode("<|turn|>")


@pytest.mark.parametrize(("values", "around"), [({}, (1,)), ({"tokenizer.ggml.add_bos_token": False}, ())])
def test_what_stands_before_a_text_is_what_the_file_says(values: Json, around: tuple[int, ...]) -> None:
    assert Contract(tokenizer(SMALL | values), stop_ids=(2,)).before == around
    both = Contract(tokenizer(SMALL | {"tokenizer.ggml.add_eos_token": True}), stop_ids=(2,))
    assert (both.before, both.after) == ((1,), (2,))
    assert Contract(tokenizer(BYTES), stop_ids=(4,)).before == ()


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "smollm", "olmo"])
def test_every_way_to_cut_words_runs(pre: str) -> None:
    assert tokenizer(BYTES | {"tokenizer.ggml.pre": pre}).encode("ab a") == [2, 3, 0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (SMALL | {"tokenizer.ggml.model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'; read are 'llama'"),
        ({}, "tokenizer.ggml.tokens is empty or missing"),
        (SMALL | {"tokenizer.ggml.tokens": ["a", 3]}, "tokenizer.ggml.tokens must be a list of str"),
        (SMALL | {"tokenizer.ggml.tokens": ["a"] * 12}, "tokenizer.ggml.tokens has 'a' twice"),
        (SMALL | {"tokenizer.ggml.scores": [0.0]}, "tokenizer.ggml.scores has 1 entries for 12 tokens"),
        (SMALL | {"tokenizer.ggml.scores": [float("nan")] * 12}, "score nan; at most"),
        (SMALL | {"tokenizer.ggml.token_type": [1]}, "token_type has 1 entries for 12 tokens"),
        (SMALL | {"tokenizer.ggml.bos_token_id": 12}, "bos_token_id is 12; allowed is an id below 12"),
        (SMALL | {"tokenizer.ggml.add_bos_token": 1}, "add_bos_token is 1; allowed is true or false"),
        (BYTES | {"tokenizer.ggml.pre": "kimi-k2"}, "tokenizer.ggml.pre is 'kimi-k2': it is not known how that cuts words. Known: gpt-2"),
        ({k: v for k, v in BYTES.items() if k != "tokenizer.ggml.pre"}, "tokenizer.ggml.pre is None"),
        (BYTES | {"tokenizer.ggml.merges": ["a c"]}, "merges has 'a c', which does not join two tokens into a third"),
        (BYTES | {"tokenizer.ggml.merges": ["ab"]}, "merges has 'ab'"),
    ],
)
def test_lists_that_do_not_go_together_are_refused(values: Json, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        tokenizer(values)
