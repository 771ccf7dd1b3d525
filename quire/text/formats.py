"""Which files a tokenizer is kept in, and all of them as a Definition: tokenizer.json as it stands, the others rewritten as one.

A folder's tokenizer.json comes first. Without one: Marian's two models, SentencePiece, WordPiece, byte pairs, tiktoken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ModelError
from . import bytepairs, marian, sentencepiece, wordpiece
from .conventions import Convention, convention_of, finish, flag
from .definition import Definition, define, kind_of, read_json
from .sentencepiece import SentencePieceModel

JSON, TARGET = "tokenizer.json", "tokenizer_target.json"
_PIECES = ("spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model")
Settings = dict[str, Any]


def read(path: Path) -> tuple[Definition, Settings]:
    """Definition and settings (tokenizer_config.json; {} where there is none) of a file or folder.

    Raises ModelError for a file that is missing, damaged, too large, or of a class that is not known.
    """
    if not path.is_dir() and not path.is_file():
        raise ModelError(f"there is no tokenizer at {path}. Give a file that holds one, or its folder.")
    folder = path if path.is_dir() else path.parent
    settings = _settings(folder)
    file = path if path.is_file() else _find(folder)
    if file.suffix == ".json" and file.name != "vocab.json":
        found = define(read_json(file), str(file), settings)
        target = folder / TARGET
        if path.is_dir() and target.is_file():
            found = replace(found, target=define(read_json(target), str(target), settings))
        return found, settings
    raw, convention = _convert(file, folder, settings)
    raw, named = finish(raw, convention, settings, str(file))
    found = define(raw, str(file), named)
    if convention.files == "marian":
        other, _ = finish(_marian(folder, "target.spm", convention, settings), convention, settings, str(file))
        found = replace(found, target=define(other, str(folder / "target.spm"), named))
    return found, settings


def _find(folder: Path) -> Path:
    # A tokenizer.json that someone put beside Marian's files says nothing about the target, unless it is ours.
    first = [JSON, "source.spm"] if (folder / TARGET).is_file() else ["source.spm", JSON]
    names = [*first, *_PIECES, "vocab.txt", "vocab.json"]
    found = [folder / name for name in names if (folder / name).is_file()] or sorted(folder.glob("*.tiktoken"))
    if not found:
        others = ", ".join(name for name in names if name != JSON)
        raise ModelError(
            f"{folder} holds no {JSON} and none of the other files of a tokenizer ({others}, *.tiktoken). "
            "Give a folder that has one, or train one: quire tokenizer train"
        )
    return found[0]


def _settings(folder: Path) -> Settings:
    settings: Settings = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):  # the second overrides the first, as in transformers
        if (folder / name).is_file():
            found = read_json(folder / name, limit=2**24)
            if not isinstance(found, dict):
                raise ModelError(f"{folder / name} must hold an object, not {kind_of(found)}")
            settings.update(found)
    older = folder / "added_tokens.json"  # {token: id}, before the settings listed them
    if "added_tokens_decoder" not in settings and older.is_file():
        found = read_json(older, limit=2**24)
        if not isinstance(found, dict):
            raise ModelError(f"{older} must hold an object of token -> id, not {kind_of(found)}")
        settings["added_tokens_decoder"] = {str(id): {"content": content} for content, id in found.items()}
    return settings


def _convert(file: Path, folder: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Any], Convention]:
    kind = {".txt": "words", ".json": "bytes", ".tiktoken": "ranks"}.get(file.suffix, "marian" if file.name == "source.spm" else "pieces")
    if kind == "ranks":
        return bytepairs.convert_ranks(file), Convention("tiktoken", "ranks", {"bos": "<|endoftext|>", "eos": "<|endoftext|>"})
    convention = convention_of(settings, _model_type(folder), kind, str(file))
    if kind == "words":
        unknown = settings.get("unk_token", convention.roles["unk"])
        return wordpiece.convert(file, settings, unknown["content"] if isinstance(unknown, dict) else unknown), convention
    if kind == "bytes":
        merges = folder / "merges.txt"
        if not merges.is_file():
            raise ModelError(f"{file} has no merges.txt beside it. Both belong to a tokenizer of byte pairs; fetch the other one too.")
        return bytepairs.convert(file, merges, settings, convention.name == "qwen2"), convention
    if kind == "marian":
        return _marian(folder, "source.spm", convention, settings), convention
    model = sentencepiece.read(file)
    if convention.name == "sentencepiece":
        convention = replace(convention, roles=model.roles | {"unk": model.pieces[model.unknown][0]})
    return pieces(model, convention, settings), convention


def _marian(folder: Path, pieces: str, convention: Convention, settings: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("vocab.json", "source.spm", "target.spm"):
        if not (folder / name).is_file():
            raise ModelError(
                f"{folder} has no {name}. A Marian model's tokenizer is source.spm, target.spm and vocab.json; fetch all three."
            )
    if flag(settings, "separate_vocabs", False, str(folder)):
        raise ModelError(f"{folder}: separate vocabularies for source and target (separate_vocabs) are not computed; share one vocab.json")
    return marian.convert(folder / "vocab.json", folder / pieces, settings.get("unk_token") or convention.roles["unk"])


def _model_type(folder: Path) -> str | None:
    file = folder / "config.json"
    config = read_json(file, limit=2**20) if file.is_file() else {}
    found = config.get("model_type") if isinstance(config, dict) else None
    return found if isinstance(found, str) else None


# -- what each class does to a SentencePiece model ---------------------------------------------------------------------------------


def pieces(model: SentencePieceModel, convention: Convention, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a tokenizer.json for a .model, as the class that is named reads it."""
    origin = model.origin
    if not flag(settings, "add_prefix_space", True, origin):
        model = replace(model, dummy_prefix=False)
    first = convention.name == "sentencepiece" or not flag(settings, "legacy", True, origin)
    raw = sentencepiece.convert(model, "first" if first else "every")
    before: list[dict[str, Any]] = []
    if convention.name == "t5":
        _t5(raw, settings, origin)
    elif convention.name == "xlm-roberta":
        _fairseq(raw, model)
    elif convention.name == "gemma":
        for token in raw["added_tokens"]:  # symbols of a user in the file, but only a template may write these
            token["special"] |= token["content"] in ("<start_of_turn>", "<end_of_turn>")
    elif convention.name == "albert":
        before = [sentencepiece.replace("``", '"'), sentencepiece.replace("''", '"')]
        if not flag(settings, "keep_accents", False, origin):
            before += [{"type": "NFKD"}, {"type": "StripAccents"}]
        # A piece that ends in a digit and a comma is taken apart, as this class does; a low score does it.
        listed = raw["model"]["vocab"]
        listed[:] = [[p, s - 100 if len(p) > 1 and p[-1] == "," and p[-2].isdigit() else s] for p, s in listed]
    elif convention.name == "deberta-v2" and flag(settings, "split_by_punct", False, origin):
        raise ModelError(f"{origin}: split_by_punct = true is not computed")
    if convention.name in _LOWER and flag(settings, "do_lower_case", _LOWER[convention.name], origin):
        before.append({"type": "Lowercase"})
    raw["normalizer"]["normalizers"][:0] = before
    return raw


_LOWER = {"albert": True, "deberta-v2": False}


def _t5(raw: dict[str, Any], settings: Mapping[str, Any], origin: str) -> None:
    """Sentinels after the pieces, the last one first (Raffel et al. 2019)."""
    count = settings.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count <= 10_000:
        raise ModelError(f"{origin}: the setting 'extra_ids' must be a number from 0 to 10,000, not {count!r}")
    listed = raw["model"]["vocab"]
    for number in reversed(range(count)):
        spelt = f"<extra_id_{number}>"
        raw["added_tokens"].append(sentencepiece.entry(len(listed), spelt, special=True))
        listed.append([spelt, 0.0])


def _fairseq(raw: dict[str, Any], model: SentencePieceModel) -> None:
    """fairseq's ids: <s>, <pad>, </s> and <unk> first, then the pieces after the model's own three, and <mask> last."""
    listed = raw["model"]["vocab"]
    if model.bpe or [piece for piece, _ in listed[:3]] != ["<unk>", "<s>", "</s>"]:
        raise ModelError(f"{model.origin}: XLM-RoBERTa needs a Unigram model whose first pieces are <unk>, <s> and </s>")
    listed[:3] = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    listed.append(["<mask>", 0.0])
    raw["model"]["unk_id"] = 3
