"""Folders without a tokenizer.json: opened as the classes that they name, with the reference's ids and special tokens."""

from __future__ import annotations

import base64
import json
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from quire.errors import ModelError
from quire.text.fast import CL100K, GPT2_PATTERN
from quire.text.tokenizer import Tokenizer
from tests.text.conftest import PROSE, corpus
from tests.text.models import processor, spm
from tests.text.test_oracle import HARMLESS
from tests.text.texts import PIECES, SPELLINGS, TEXTS, texts

ROLES = ("bos", "eos", "pad", "unk", "cls", "sep", "mask")
SIMPLE = ("the quick fox", "It's a fine day; 1234567890", "Größe naïve Привет мир", "hello, (world) x=1")


def folder_of(folder: Path, files: dict[str, str | bytes], settings: dict[str, Any] | None = None, model_type: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def opened(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoTokenizer.from_pretrained(folder)


def same(ours: Tokenizer, theirs: Any, some: Any = HARMLESS, decoding: bool = True) -> None:
    """Ids, special tokens, what stands around one text and two."""
    for text in some:
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids, text
        if decoding:
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert {role: getattr(theirs, f"{role}_token") for role in ROLES} == {role: ours.special.get(role) for role in ROLES}
    assert {role: getattr(theirs, f"{role}_token_id") for role in ours.special} == ours.special_ids


def same_when_saved(ours: Tokenizer, theirs: Any, folder: Path, some: Any = HARMLESS) -> None:
    ours.save(folder)
    again = opened(folder)
    same(ours, again, some)
    for pair in (("the fox",), ("the fox", "a dog")):
        assert again(*pair)["input_ids"] == theirs(*pair)["input_ids"]
        if "token_type_ids" in again(*pair):
            assert again(*pair)["token_type_ids"] == theirs(*pair).get("token_type_ids", again(*pair)["token_type_ids"])
    assert Tokenizer.open(folder).hash == ours.hash


# -- WordPiece ---------------------------------------------------------------------------------------------------------------------


def vocabulary(tokenizer: Tokenizer, respelt: dict[str, str] | None = None) -> str:
    tokens = [tokenizer.token(id) for id in range(tokenizer.vocab_size)]
    return "".join(f"{(respelt or {}).get(token, token)}\n" for token in tokens)


MPNET = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
WORD_SETTINGS: list[dict[str, Any]] = [
    {"tokenizer_class": "BertTokenizer"},
    {"tokenizer_class": "BertTokenizerFast", "do_lower_case": False},
    {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, "strip_accents": False},
    {"tokenizer_class": "BertTokenizer", "do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("settings", WORD_SETTINGS)
def test_word_pieces(trained: dict[str, Tokenizer], settings: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "it", {"vocab.txt": vocabulary(trained["wordpiece"])}, settings)
    ours, theirs = Tokenizer.open(folder), opened(folder)
    same(ours, theirs)
    same_when_saved(ours, theirs, tmp_path / "saved")


def test_mpnets_own_special_tokens(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"vocab.txt": vocabulary(trained["wordpiece"], MPNET)}
    folder = folder_of(tmp_path / "it", files, {"tokenizer_class": "MPNetTokenizer"})
    ours, theirs = Tokenizer.open(folder), opened(folder)
    same(ours, theirs)
    same_when_saved(ours, theirs, tmp_path / "saved")


def test_slow_bert_and_never_split(trained: dict[str, Tokenizer], tmp_path: Path) -> None:
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    file = folder_of(tmp_path, {"vocab.txt": vocabulary(trained["wordpiece"]) + "x-Y\n"}, {"never_split": ["x-Y"]}) / "vocab.txt"
    ours, theirs = Tokenizer.open(file), BertTokenizerLegacy(str(file), never_split=["x-Y"])
    # The slow class drops characters that Unicode has not assigned, the fast one reads them as unknown.
    for text in (*(text.replace("\U0010ffff", "") for text in HARMLESS), "the x-Y fox", "x-Y"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False), text
    assert ours.token_id("x-Y") in ours.encode("the x-Y fox")


@pytest.mark.needs_data
@pytest.mark.parametrize("lower", [True, False])
def test_berts_own_vocabulary(data_folder: Path, lower: bool, tmp_path: Path) -> None:
    file = data_folder / "tokenizers" / "bert-base-uncased" / "vocab.txt"
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lower}
    folder = folder_of(tmp_path, {"vocab.txt": file.read_bytes()}, settings, "bert")
    ours, theirs = Tokenizer.open(folder), opened(folder)
    stories = (data_folder / "corpora" / "tinystories_sample.txt").read_text()[:50_000].splitlines()
    same(ours, theirs, [*HARMLESS, *PIECES, *stories])
    assert ours.encode("unaffable") == Tokenizer.open(file).encode("unaffable")


# -- byte pairs --------------------------------------------------------------------------------------------------------------------


def pairs(tokenizer: Tokenizer, respelt: dict[str, str] | None = None) -> dict[str, str | bytes]:
    spelt = {(respelt or {}).get(token, token): id for id, token in tokenizer.definition.spellings.items()}
    merges = "".join(f"{left} {right}\n" for left, right in tokenizer.definition.merges())
    return {"vocab.json": json.dumps(spelt), "merges.txt": "#version: 0.2\n" + merges}


ROBERTA = {"<|im_start|>": "<unk>", "<|im_end|>": "<mask>"}
BYTE_SETTINGS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"tokenizer_class": "GPT2Tokenizer", "unk_token": "</s>", "bos_token": "</s>", "eos_token": "</s>"}, {}),
    ({"tokenizer_class": "RobertaTokenizer"}, ROBERTA),
    ({"tokenizer_class": "BartTokenizer", "add_prefix_space": True}, ROBERTA),
    ({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "unk_token": "<|end|>", "pad_token": "<|end|>"}, {}),
]


@pytest.mark.parametrize(("settings", "respelt"), BYTE_SETTINGS)
def test_byte_pairs(chat_tokenizer: Tokenizer, settings: dict[str, Any], respelt: dict[str, str], tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "it", pairs(chat_tokenizer, respelt), settings)
    ours, theirs = Tokenizer.open(folder), opened(folder)
    some = [text for text in HARMLESS if "\ufeff" not in text]
    same(ours, theirs, some)
    same_when_saved(ours, theirs, tmp_path / "saved", some)


@pytest.mark.needs_data
def test_gpt2_in_its_first_form(data_folder: Path, gpt2: Tokenizer, tmp_path: Path) -> None:
    source = data_folder / "tokenizers" / "gpt2"
    files: dict[str, str | bytes] = {
        "vocab.json": (source / "encoder.json").read_bytes(),
        "merges.txt": (source / "vocab.bpe").read_bytes(),
    }
    ours = Tokenizer.open(folder_of(tmp_path, files))
    for text in TEXTS:
        assert ours.encode(text) == gpt2.encode(text)
        assert ours.decode(ours.encode(text)) == text
    assert ours.special == {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
    assert ours.fast is not None


# -- tiktoken ----------------------------------------------------------------------------------------------------------------------


def ranks_of(tokenizer: Tokenizer) -> dict[bytes, int]:
    return {token: rank for rank, token in enumerate(sorted(tokenizer.byte_ids, key=tokenizer.byte_ids.__getitem__))}


def lines(ranks: dict[bytes, int]) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())


@given(text=texts)
def test_ranks(bpe: Tokenizer, tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    ours, theirs = ranked(bpe, tmp_path_factory)
    assert ours.encode(text) == theirs.encode_ordinary(text)
    assert ours.decode(ours.encode(text)) == text


_RANKED: dict[str, tuple[Tokenizer, Any]] = {}


def ranked(bpe: Tokenizer, factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    import tiktoken

    if not _RANKED:
        folder = folder_of(factory.mktemp("ranks"), {"cl100k_base.tiktoken": lines(ranks_of(bpe))})
        _RANKED[""] = Tokenizer.open(folder), tiktoken.Encoding("it", pat_str=CL100K, mergeable_ranks=ranks_of(bpe), special_tokens={})
    return _RANKED[""]


@pytest.mark.needs_data
@pytest.mark.parametrize(("name", "pattern"), [("cl100k_base", CL100K), ("whisper_multilingual", GPT2_PATTERN)])
def test_published_ranks(data_folder: Path, name: str, pattern: str) -> None:
    import tiktoken

    path = data_folder / "tokenizers" / "tiktoken" / f"{name}.tiktoken"
    ours = Tokenizer.open(path)
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, path.read_text().splitlines())}
    theirs = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    dice = random.Random(0)
    runs = ["".join(dice.choice([*PIECES, *"ab=-_", "=" * dice.randint(1, 90)]) for _ in range(9)) for _ in range(300)]
    for text in [*TEXTS, *PIECES, *runs]:
        assert ours.encode(text) == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text
    assert ours.eos == {"cl100k_base": 100257, "whisper_multilingual": 50257}[name]


# -- SentencePiece as each class has it --------------------------------------------------------------------------------------------

T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "rules": True}
BERTLIKE = {
    "pad_id": 0,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "pad_piece": "<pad>",
    "control_symbols": "[CLS],[SEP],[MASK]",
    "rules": True,
}
DEBERTA = {
    "pad_id": 0,
    "unk_id": 3,
    "bos_id": 1,
    "eos_id": 2,
    "pad_piece": "[PAD]",
    "bos_piece": "[CLS]",
    "eos_piece": "[SEP]",
    "unk_piece": "[UNK]",
}
GEMMA = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
BYTES = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 600, "remove_extra_whitespaces": False}
# class -> (file, the reference's training options, settings, what stands around one text, and two)
CLASSES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, str]] = {
    "T5Tokenizer": ("spiece.model", T5, {"extra_ids": 10}, "A </s>", "A </s> B </s>"),
    "AlbertTokenizer": ("spiece.model", BERTLIKE, {}, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", {"rules": True}, {}, "<s> A </s>", "<s> A </s> </s> B </s>"),
    "DebertaV2Tokenizer": ("spm.model", DEBERTA, {}, "[CLS] A [SEP]", "[CLS] A [SEP] B [SEP]"),
    "LlamaTokenizer": ("tokenizer.model", BYTES, {}, "<s> A", "<s> A <s> B"),
    "GemmaTokenizer": ("tokenizer.model", BYTES | GEMMA | {"add_dummy_prefix": False}, {"mask_token": None}, "<bos> A", "<bos> A <bos> B"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_classes_over_sentencepiece(name: str, tmp_path: Path) -> None:
    file, options, settings, single, pair = CLASSES[name]
    data = spm([PROSE * 20, corpus()[1][:20_000]], tmp_path, **options)
    folder = folder_of(tmp_path / "it", {file: data}, settings | {"tokenizer_class": name})
    ours, theirs, reference = Tokenizer.open(folder), opened(folder), processor(data)
    shift = 1 if name == "XLMRobertaTokenizer" else 0
    lower = name == "AlbertTokenizer"  # and without accents, as SIMPLE is read below
    for text in ["the quick fox", "it's a fine day; 1234567890", "привет мир", "hello, (world) x=1", "  two  spaces "]:
        expected = [3 if shift and id == 0 else id + shift for id in reference.encode(text.replace("й", "и") if lower else text)]
        assert ours.encode(text) == (ours.encode(text) if lower and "й" in text else expected), text
        assert ours.decode(ours.encode(text)).split() == ours.decode(expected).split()
    same(ours, theirs, ("the quick fox", "it's a fine day"))
    assert ours.vocab_size == len(theirs)
    ours.save(tmp_path / "saved")
    again = opened(tmp_path / "saved")
    same(ours, again, [text for text in HARMLESS if text])
    ids = {"A": ours.encode("the fox"), "B": ours.encode("a dog")}
    for layout, given_ in ((single, ("the fox",)), (pair, ("the fox", "a dog"))):
        whole = [id for part in layout.split() for id in ids.get(part, [ours.token_id(part)])]
        assert again(*given_)["input_ids"] == whole
    folder_of(
        folder, {}, settings, {"T5Tokenizer": "t5", "XLMRobertaTokenizer": "xlm-roberta"}.get(name, name.removesuffix("Tokenizer").lower())
    )
    if name != "DebertaV2Tokenizer":
        assert Tokenizer.open(folder).hash == ours.hash  # named by config.json instead


def test_sentinels_count_down(tmp_path: Path) -> None:
    data = spm([PROSE], tmp_path, **T5, vocab_size=200)
    ours = Tokenizer.open(folder_of(tmp_path / "it", {"spiece.model": data}, None, "mt5"))
    assert ours.token_id("<extra_id_99>") == processor(data).get_piece_size() == ours.vocab_size - 100
    assert ours.token_id("<extra_id_0>") == ours.vocab_size - 1
    assert not any(ours.is_special(id) and id != ours.unk for id in ours.encode("<extra_id_0> <pad>"))


def test_llamas_prefix(tmp_path: Path) -> None:
    """A space in front of every stretch between special tokens, or of the text alone where the folder says legacy = false."""
    data = spm([PROSE * 20], tmp_path, **BYTES)
    made = {}
    for legacy in (True, False):
        made[legacy] = Tokenizer.open(
            folder_of(tmp_path / str(legacy), {"tokenizer.model": data}, {"tokenizer_class": "LlamaTokenizer", "legacy": legacy})
        )
    for tokenizer in made.values():
        for text in ("the fox", " the fox", "▁", "  "):
            assert tokenizer.encode(text) == processor(data).encode(text)
    first, second = ("".join(map(t.token, t.encode_parts(["the", 2, "the"]).ids)) for t in made.values())
    assert (first, second) == ("▁the</s>▁the", "▁the</s>the")
    bare = {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False, "add_bos_token": False, "add_eos_token": True}
    ours = Tokenizer.open(folder_of(tmp_path / "bare", {"tokenizer.model": data}, bare))
    assert "".join(ours.token(id) for id in ours.encode("the")) == "the"
    ours.save(tmp_path / "saved")
    assert opened(tmp_path / "saved")("the")["input_ids"] == [*ours.encode("the"), 2]


def test_tokens_that_a_folder_adds(tmp_path: Path) -> None:
    data = spm([PROSE], tmp_path, **BYTES)
    size = processor(data).get_piece_size()
    more = {str(size): {"content": "<|im_start|>", "special": True}, str(size + 1): {"content": "tool", "special": False}}
    settings = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": more, "pad_token": "<pad>"}
    ours = Tokenizer.open(folder_of(tmp_path / "it", {"tokenizer.model": data}, settings))
    assert [ours.token_id(token) for token in ("<|im_start|>", "tool", "<pad>")] == [size, size + 1, size + 2]
    assert size + 1 in ours.encode("a tool") and size not in ours.encode("<|im_start|>")
    files: dict[str, str | bytes] = {"tokenizer.model": data, "added_tokens.json": json.dumps({"tool": size, "<|im_start|>": size + 1})}
    older = Tokenizer.open(folder_of(tmp_path / "older", files, {"tokenizer_class": "LlamaTokenizer", "pad_token": "<|im_start|>"}))
    assert (older.token_id("tool"), older.pad) == (size, size + 1)


def test_only_a_template_writes_gemmas_turns(tmp_path: Path) -> None:
    options = BYTES | GEMMA | {"add_dummy_prefix": False, "user_defined_symbols": "<start_of_turn>,<end_of_turn>,<b>"}
    data = spm([PROSE * 20], tmp_path, **options)
    ours = Tokenizer.open(folder_of(tmp_path / "it", {"tokenizer.model": data}, {}, "gemma"))
    assert {"<start_of_turn>", "<end_of_turn>"} <= ours.special_tokens.keys()
    assert ours.token_id("<start_of_turn>") not in ours.encode("<start_of_turn>")
    assert ours.token_id("<b>") in ours.encode("a <b>")


# -- Marian ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marian")
    source, target = spm([corpus()[1][:20_000], PROSE[:200]], folder, rules=True), spm([PROSE * 30], folder, rules=True)
    ids = {"</s>": 0, "<unk>": 1}
    for model in map(processor, (source, target)):
        for id in range(3, model.get_piece_size()):
            ids.setdefault(model.id_to_piece(id), len(ids))
    ids |= {">>fra<<": len(ids), "<pad>": len(ids) + 1}
    files: dict[str, str | bytes] = {"source.spm": source, "target.spm": target, "vocab.json": json.dumps(ids)}
    return folder_of(folder, files, {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "fr"}, "marian")


@pytest.fixture(scope="module")
def marians(marian: Path) -> tuple[Tokenizer, Any]:
    from transformers import MarianTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Tokenizer.open(marian), MarianTokenizer.from_pretrained(marian)


@given(text=texts)
def test_marians_two_sides(marians: tuple[Tokenizer, Any], text: str) -> None:
    ours, theirs = marians
    if any(spelling in text for spelling in SPELLINGS):
        return
    text = "".join(c for c in text if c not in "\u0301\u200d\ufe0f\u0308")  # see test_sentencepiece.test_marks_over_letters
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    ids = theirs(text_target=text, add_special_tokens=False)["input_ids"]
    assert ours.target.encode(text) == ids
    assert ours.decode(ids).strip() == theirs.decode(ids, skip_special_tokens=True)


def test_marian_as_a_tokenizer(marians: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    ours, theirs = marians
    assert ours.target.special_ids == ours.special_ids == {"eos": 0, "unk": 1, "pad": theirs.pad_token_id}
    assert ours.encode(">>fra<< the") == theirs.encode(">>fra<< the", add_special_tokens=False)
    assert ours.target.target is ours.target and ours.target.hash != ours.hash
    ours.save(tmp_path)
    again = Tokenizer.open(tmp_path)
    assert (again.hash, again.target.hash) == (ours.hash, ours.target.hash)
    assert opened(tmp_path)("the fox")["input_ids"] == theirs("the fox")["input_ids"]


def test_a_foreign_tokenizer_json_beside_marians_files(marian: Path, marians: tuple[Tokenizer, Any], tmp_path: Path) -> None:
    marians[0].save(tmp_path)
    (tmp_path / "tokenizer_target.json").unlink()
    for file in marian.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert Tokenizer.open(tmp_path).target.hash == marians[0].target.hash


def test_one_tokenizer_has_itself_for_a_target(bpe: Tokenizer) -> None:
    assert bpe.target is bpe


# -- what is refused ---------------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, str | bytes], dict[str, Any], str]] = [
    ({}, {}, r"holds no tokenizer\.json and none of the other files of a tokenizer \(source\.spm, spiece"),
    ({"vocab.txt": "a\nb\na\n"}, {}, r"line 3 repeats the token 'a' of line 1"),
    ({"vocab.txt": b"\xff\n"}, {}, r"vocab\.txt is not UTF-8 text \(byte 0\)"),
    ({"vocab.txt": "[UNK]\n"}, {"do_lower_case": "no"}, "'do_lower_case' must be true or false"),
    ({"vocab.txt": "[UNK]\n"}, {"never_split": ["x"]}, "'never_split' names 'x'"),
    ({"vocab.txt": "[UNK]\n"}, {"do_basic_tokenize": False}, "do_basic_tokenize = false"),
    ({"vocab.txt": "[UNK]\n"}, {"tokenizer_class": "LlamaTokenizer"}, "'LlamaTokenizer' is not kept in this kind of file"),
    ({"vocab.txt": "[UNK]\n"}, {"tokenizer_class": "BertyTokenizer"}, "'BertyTokenizer' is not a tokenizer whose.* Did you mean 'bert'"),
    ({"vocab.txt": "[UNK]\n"}, {"tokenizer_class": 3}, "'tokenizer_class' must be a string"),
    ({"vocab.txt": "[UNK]\n"}, {"cls_token": None}, "needs a cls token around every text"),
    ({"vocab.txt": "[UNK]\n"}, {"added_tokens_decoder": {"x": {"content": "y"}}}, "has a key that is no id"),
    ({"vocab.txt": "[UNK]\n"}, {"added_tokens_decoder": {"9": {"content": "y"}}}, "Ids must go on without a gap"),
    (
        {"vocab.txt": "[UNK]\n"},
        {"added_tokens_decoder": {"9": {"content": "[UNK]"}}},
        r"give '\[UNK\]' the id 9, but the vocabulary gives it 0",
    ),
    ({"vocab.txt": "[UNK]\n", "added_tokens.json": "[]"}, {}, r"added_tokens\.json must hold an object"),
    ({"vocab.json": "{}"}, {}, r"has no merges\.txt beside it"),
    ({"vocab.json": '{"a": 0}', "merges.txt": "a b c\n"}, {}, "line 1 is 'a b c'; two tokens"),
    ({"vocab.json": "[]", "merges.txt": ""}, {}, "must hold an object of token -> id"),
    ({"vocab.json": '{"a": 0}', "merges.txt": "a b\n"}, {}, "opening .* failed in the tokenizers library"),
    ({"my.tiktoken": "IQ== 0\n"}, {}, "The name of the file does for gpt2"),
    ({"cl100k_base.tiktoken": "IQ== 0\n"}, {}, "no token for 255 of the 256 bytes"),
    ({"cl100k_base.tiktoken": "IQ== 0\nIQ== 1\n"}, {}, "line 2 has a token of 1 bytes with rank 1"),
    ({"cl100k_base.tiktoken": "!! 0\n"}, {}, "a token in base64 and its rank"),
    ({"source.spm": ""}, {}, r"has no vocab\.json"),
    ({"source.spm": "", "target.spm": "", "vocab.json": '{"a": 1}'}, {}, "the ids from 0 to one less"),
    ({"source.spm": "", "target.spm": "", "vocab.json": '{"a": 0}'}, {}, "does not hold the unknown token '<unk>'"),
    ({"source.spm": "", "target.spm": "", "vocab.json": "{}"}, {"separate_vocabs": True}, "separate vocabularies"),
]


@pytest.mark.parametrize(("files", "settings", "message"), BAD)
def test_what_is_wrong_is_named(files: dict[str, str | bytes], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        Tokenizer.open(folder_of(tmp_path, files, settings))
