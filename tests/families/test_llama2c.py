"""llama2.c's own form: stories260K, a model that was really trained, against the published text, a forward in numpy, and the reference."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import quire
from quire.cli.convert import convert, read
from quire.errors import ModelError, RecipeError, StorageError, WeightsError
from quire.families.folder import ModelFolder
from quire.families.llama2c import Llama2c
from quire.nn.batch import Batch
from quire.nn.transformer import Transformer
from quire.text import llama2c as pieces

Floats = npt.NDArray[np.float32]

# what run.c prints at temperature 0 (test_all.py of llama2.c holds it as the expected text)
PUBLISHED = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball. "
    "She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what "
    "to do. She said, \"I want to play with your ball, but I can't find it.\"\nLily was sad and didn't know what to do. She said, \"I'm "
    "sorry, Lily. I didn't know what to do.\"\nLily didn't want to help her mom, so she said, \"I'm sorry, mom. I didn't know what to "
    'do." Her mom said, "Don\'t worry, Lily. We can help you.'
)


@pytest.fixture(scope="module")
def stories(data_folder: Path) -> Path:
    return data_folder / "models" / "stories260K"


@pytest.fixture(scope="module")
def folder(stories: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stories") / "model"
    convert(*read(stories / "stories260K.bin", stories / "tok512.bin"), place, {"converted": "stories260K.bin"})
    return place


def forward(path: Path, tokens: list[int]) -> Floats:
    """run.c in numpy: (T, V) logits, with rotary positions in pairs, as the file has them."""
    data = path.read_bytes()
    width, hidden, layers, heads, kv_heads, vocab, _ = struct.unpack_from("<7i", data)
    rest, at = np.frombuffer(data, np.float32, offset=28), 0

    def take(*shape: int) -> Floats:
        nonlocal at
        at += int(np.prod(shape))
        return rest[at - int(np.prod(shape)) : at].reshape(shape)

    size = width // heads
    table = take(vocab, width)
    norm1, q, k = take(layers, width), take(layers, width, width), take(layers, size * kv_heads, width)
    v, o, norm2 = take(layers, size * kv_heads, width), take(layers, width, width), take(layers, width)
    gate, down, up, last = take(layers, hidden, width), take(layers, width, hidden), take(layers, hidden, width), take(width)

    def rms(x: Any, weight: Floats) -> Any:
        return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)

    angles = np.arange(len(tokens))[:, None] * 10000.0 ** -(np.arange(0, size, 2) / size)
    turn = np.exp(1j * angles)[:, None]  # (T, 1, C/2)

    def turned(x: Any) -> Any:
        both = (x[..., 0::2] + 1j * x[..., 1::2]) * turn
        return np.stack([both.real, both.imag], -1).reshape(x.shape)

    x = table[tokens].astype(np.float64)
    causal = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for i in range(layers):
        h = rms(x, norm1[i])
        split = [(h @ w[i].T).reshape(len(tokens), -1, size) for w in (q, k, v)]
        query, key, value = turned(split[0]), turned(split[1]), split[2]
        key, value = (np.repeat(part, heads // kv_heads, axis=1) for part in (key, value))
        scores = np.einsum("thc,shc->hts", query, key) / np.sqrt(size) + causal
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + np.einsum("hts,shc->thc", weights, value).reshape(len(tokens), width) @ o[i].T
        h = rms(x, norm2[i])
        a = h @ gate[i].T
        x = x + ((a / (1 + np.exp(-a))) * (h @ up[i].T)) @ down[i].T
    logits: Floats = (rms(x, last) @ table.T).astype(np.float32)
    return logits


def logits(model: Transformer, tokens: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.head(model(Batch(torch.tensor([tokens]))))[0]  # type: ignore[misc]
    return found


def merged(path: Path, text: str) -> list[int]:
    """run.c's encode: characters (or their bytes), then again and again the neighbours whose joined piece has the best score."""
    data, at, scores, ids = path.read_bytes(), 4, [], {}
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        ids[data[at + 8 : at + 8 + length].decode()] = len(scores)
        scores.append(score)
        at += 8 + length
    names = {id: piece for piece, id in ids.items()}
    found: list[int] = [ids[" "]] if text else []
    for character in text:
        found += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        joins = [(scores[ids[a + b]], -i) for i in range(len(found) - 1) if (a := names[found[i]]) + (b := names[found[i + 1]]) in ids]
        if not joins:
            return found
        place = -max(joins)[1]
        found[place : place + 2] = [ids[names[found[place]] + names[found[place + 1]]]]


@pytest.mark.needs_data
def test_greedy_text_is_the_published_one(folder: Path) -> None:
    model = quire.load(folder)
    written = model.generate("", quire.Sampling(temperature=0.0, max_tokens=260)).text  # type: ignore[union-attr]
    assert written.lstrip().startswith(PUBLISHED)


@pytest.mark.needs_data
def test_log_probabilities_are_those_of_a_forward_in_numpy_and_of_the_reference(folder: Path, stories: Path) -> None:
    import transformers

    opened = quire.load(folder)
    tokens = [1, *opened.contract.tokenizer.encode(PUBLISHED)]
    wanted = torch.from_numpy(forward(stories / "stories260K.bin", tokens)).log_softmax(-1)
    ours = logits(opened.model, tokens).log_softmax(-1)
    assert (ours - wanted).abs().max() < 1e-4
    assert (wanted.argmax(-1)[9:-1] == torch.tensor(tokens[10:])).float().mean() == 1.0  # it wrote this text itself
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        theirs = reference(torch.tensor([tokens])).logits[0].log_softmax(-1)
    assert (ours - theirs).abs().max() < 1e-4
    score = opened.score([("Once upon a time", ", there was a little girl named Lily.")])[0]  # type: ignore[union-attr]
    row = [1, *opened.contract.tokenizer.encode("Once upon a time, there was a little girl named Lily.")]
    known = len(row) - len(score.tokens)
    exact = torch.from_numpy(forward(stories / "stories260K.bin", row)).log_softmax(-1)
    assert abs(score.logprob - float(exact[known - 1 : -1].gather(1, torch.tensor(row[known:])[:, None]).sum())) < 1e-3


@pytest.mark.needs_data
def test_the_same_model_as_gguf_gives_the_same_logits_and_ids(folder: Path, stories: Path) -> None:
    one, other = quire.load(folder), quire.load(stories / "stories260Ktok512.gguf")
    for text in ("Once upon a time", "Lily's  ball\nwas red.", "éa 🦙 1234", ""):
        assert one.contract.tokenizer.encode(text) == other.contract.tokenizer.encode(text)
    assert (one.contract.before, one.contract.stop_ids) == (other.contract.before, other.contract.stop_ids) == ((1,), (2,))
    tokens = [1, *one.contract.tokenizer.encode(PUBLISHED[:200])]
    assert (logits(one.model, tokens) - logits(other.model, tokens)).abs().max() < 1e-5
    greedy = quire.Sampling(temperature=0.0, max_tokens=40)
    assert one.generate("One day", greedy).text == other.generate("One day", greedy).text  # type: ignore[union-attr]
    assert other.binding.tensors["token_embd.weight"].shape == (512, 64) and other.identity != one.identity


@pytest.mark.needs_data
def test_ids_are_those_of_the_program_that_the_tokenizer_belongs_to(folder: Path, stories: Path) -> None:
    import transformers

    words = quire.Tokenizer.open(folder)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    for text in (PUBLISHED, "Zoë  ran\n\n\tfast", "🦙🦙", "a", " a", "<s> no mark </s>", "0x1F"):
        assert words.encode(text) == merged(stories / "tok512.bin", text)
        assert words.decode(words.encode(text)) == text
        if "<s>" not in text:
            assert reference(text).input_ids == [1, *words.encode(text)]


# --- small files of our own


def small(path: Path, sizes: tuple[int, ...] = (8, 12, 2, 2, 1, 24, 16), theta: float = 10_000.0) -> Path:
    width, hidden, layers, heads, kv_heads, vocab, context = sizes
    narrow, size = width // heads * kv_heads, width // heads
    draw = np.random.default_rng(5)
    count = abs(vocab) * width * (1 if vocab > 0 else 2) + width
    count += layers * (2 * width + 2 * width * width + 2 * narrow * width + 3 * hidden * width)
    data = draw.normal(size=count).astype(np.float32)
    tail = data[len(data) - (abs(vocab) * width if vocab < 0 else 0) :]
    angles = np.arange(context)[:, None] * theta ** -(np.arange(0, size, 2) / size)
    turns = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    path.write_bytes(struct.pack("<7i", *sizes) + data[: len(data) - len(tail)].tobytes() + turns.tobytes() + tail.tobytes())
    return path


def vocabulary(path: Path, count: int = 24) -> Path:
    names = ["<unk>", "\n<s>\n", "\n</s>\n", " ", "a", "b", "ab", *(f"c{i}" for i in range(count - 7))]
    data = [struct.pack("<fi", -float(i), len(name.encode())) + name.encode() for i, name in enumerate(names)]
    path.write_bytes(struct.pack("<i", 5) + b"".join(data))
    return path


@pytest.mark.parametrize("vocab", [24, -24])
def test_a_small_model_computes_what_numpy_computes(tmp_path: Path, vocab: int) -> None:
    path = small(tmp_path / "m.bin", (8, 12, 2, 2, 1, vocab, 16))
    opened = ModelFolder(path, Llama2c(path))
    assert opened.config["tie_word_embeddings"] is (vocab > 0)
    if vocab > 0:
        ours = logits(opened.build(), [3, 4, 5, 6])
        assert (ours - torch.from_numpy(forward(path, [3, 4, 5, 6]))).abs().max() < 1e-4
    before = path.read_bytes()
    opened.build().embed.weight.data.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "cannot be sizes of one"),
        (lambda data: data[:20], "cannot be sizes of one"),
        (lambda data: data[:-4], "but a model of its sizes has .*cut short"),
        (lambda data: data + b"    ", "but a model of its sizes has"),
        (lambda data: struct.pack("<7i", 8, 12, 10**9, 2, 1, 24, 16) + data[28:], "cannot be sizes of one"),
        (lambda data: struct.pack("<7i", 8, 12, 2, 2, 0, 24, 16) + data[28:], "cannot be sizes of one"),
        (lambda data: struct.pack("<7i", 8, 12, 2, 3, 1, 24, 16) + data[28:], "cannot be sizes of one"),
        (lambda data: struct.pack("<7i", 2**24, 2**24, 1000, 2, 1, -(2**24), 16) + data[28:], "but a model of its sizes has"),
        (lambda data: (0x616B3432).to_bytes(4, "little") + data[4:], "of a later form of llama2.c"),
    ],
)
def test_files_that_are_no_such_model_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = small(tmp_path / "m.bin")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(WeightsError, match=message):
        Llama2c(path)


def test_another_rotary_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="do not follow from a base of 10000"):
        Llama2c(small(tmp_path / "m.bin", theta=500.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "cut short|length"),
        (lambda data: data[:9], "cut short"),
        (lambda data: data[:4] + struct.pack("<fi", float("nan"), 5) + data[12:], "score nan"),
        (lambda data: data[:4] + struct.pack("<fi", 0.0, -5) + data[12:], "length -5"),
        (lambda data: data[:4] + struct.pack("<fi", 0.0, 2**30) + data[12:], "length 1073741824"),
        (lambda data: data[:12] + b"\xff" + data[13:], "is not UTF-8"),
        (lambda data: data[:4], "does not begin with <unk>"),
        (lambda data: data + data[-10:], "has a piece twice|length"),
    ],
)
def test_tokenizers_that_are_none_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = vocabulary(tmp_path / "t.bin")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match=f"is no tokenizer of llama2.c: .*({message})"):
        pieces.read(path)


def test_the_verb_writes_a_folder_and_says_what_it_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from quire.cli.main import main

    model, words = small(tmp_path / "m.bin"), vocabulary(tmp_path / "t.bin")
    assert main(["convert", str(model), str(tmp_path / "out"), "--tokenizer", str(words)]) == 0
    assert "llama · " in capsys.readouterr().out
    opened = quire.load(tmp_path / "out")
    assert opened.binding.recorded["lineage"] == {"converted": "m.bin"}
    assert opened.contract.tokenizer.encode("ab") == [3, 6]
    assert main(["convert", str(model), str(tmp_path / "out"), "--tokenizer", str(words)]) == 2
    assert "is not empty. Give a new folder" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="holds no tokenizer. Give its file"):
        read(model)
    with pytest.raises(ModelError, match="has 20 pieces, but .* was made for 24"):
        read(model, vocabulary(tmp_path / "u.bin", 20))
    with pytest.raises(ModelError, match="there is no file"):
        read(tmp_path / "nothing.bin")
    with pytest.raises(StorageError, match="is not empty"):
        convert(*read(model, words), tmp_path, {})
