"""What a sentence-transformers folder says beside the weights: which modules make one vector of a text, its prompts, its longest text.

Read strictly, from modules.json, sentence_bert_config.json, config_sentence_transformers.json and each module's own folder, in the old and
the new spellings. A module or a setting that is not understood is refused by name: a vector made without it would be another one. A folder
without modules.json is what that library makes of it: the mean of all tokens, not normalised.

Format: https://sbert.net (sentence-transformers 6).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .. import durable
from ..binding.weights import read_header
from ..errors import ModelError, RecipeError
from ..text.definition import parse_json, read_json, read_optional

POOLS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_POOLS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {"Identity": "none", "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu", "Sigmoid": "sigmoid"}
_LARGEST = 1 << 20  # bytes of a configuration
_LARGEST_DENSE = 1 << 28  # bytes of a dense layer's weights
_NO_CHANGE: dict[str, tuple[Any, ...]] = {  # settings, and the values at which they change nothing
    "transformer_task": ("feature-extraction",),
    "module_output_name": ("token_embeddings", "sentence_embedding"),
    "module_input_name": ("sentence_embedding",),
    "use_residual": (False,),
    "unpad_inputs": (True, False),
    "embedding_dimension": (),
    "model_type": ("SentenceTransformer",),
}
_NO_CHANGE |= dict.fromkeys(("query_length", "document_length", "query_expansion", "processing_kwargs", "truncate_dim"), ())
_NO_CHANGE |= dict.fromkeys(("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"), ())

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Dense:
    """A layer behind the pooling: weight (out, in), bias (out,) or None, and the name of its activation."""

    weight: Floats
    bias: Floats | None
    act: str


@dataclass(frozen=True)
class Sentence:
    """pools: joined in this order. steps: what happens to the pooled vector. limit: tokens of the longest text; 0: the model's positions.

    lower: the text is written small first. prompts: what stands before a text, by its kind; `default` is the name of the one that is used
    when no kind is given. prompt_counts: whether the prompt's tokens are pooled too.
    """

    pools: tuple[str, ...] = ("mean",)
    steps: tuple[Dense | Literal["normalize"], ...] = ()
    limit: int = 0
    lower: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    prompt_counts: bool = True
    similarity: Literal["cosine", "dot"] = "cosine"

    def prompt(self, kind: Literal["document", "query"] | None) -> str:
        """What stands before a text of this kind; nothing where the folder has no prompt for it."""
        names = {"query": ["query"], "document": ["document", "passage", "corpus"], None: [self.default] if self.default else []}
        if kind not in names:
            raise RecipeError(f"kind is {kind!r}; allowed: query, document, None.")
        return next((self.prompts[name] for name in names[kind] if name in self.prompts), "")


def read(folder: Path, width: int, settings: Mapping[str, Any]) -> Sentence:
    """The sentence model in a folder whose transformer is `width` wide; settings: the values of its tokenizer_config.json.

    Raises ModelError that names the module, the setting or the file that is not understood.
    """
    text = read_optional(folder / "modules.json", _LARGEST)
    if text is None:
        return Sentence()
    listed = parse_json(text.encode("utf-8"), str(folder / "modules.json"))
    kinds = [_module(folder, entry) for entry in listed] if isinstance(listed, list) else []
    if [kind for kind, _ in kinds[:2]] != ["Transformer", "Pooling"] or kinds[0][1] != folder:
        raise ModelError(
            f"{folder / 'modules.json'} lists {', '.join(kind for kind, _ in kinds) or 'nothing'}; "
            "read are a Transformer in the folder itself, then Pooling, then Dense and Normalize in any order."
        )
    own = _settings(folder / "sentence_bert_config.json", _OWN_KEYS)
    pooling = kinds[1][1] / "config.json"
    pools, prompt_counts = _pooling(pooling, _settings(pooling, _POOLING_KEYS), width)
    size = width * len(pools)
    steps: list[Dense | Literal["normalize"]] = []
    for kind, place in kinds[2:]:
        if kind == "Dense":
            dense = _dense(place, size)
            steps.append(dense)
            size = len(dense.weight)
        elif kind == "Normalize":
            _settings(place / "config.json", set())
            steps.append("normalize")
        else:
            raise ModelError(f"{folder / 'modules.json'}: a second {kind} is not understood.")
    more = _settings(folder / "config_sentence_transformers.json", _MODEL_KEYS)
    limit = own.get("max_seq_length", settings.get("model_max_length"))
    prompts, similarity = more.get("prompts") or {}, more.get("similarity_fn_name") or "cosine"
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ModelError(f"{folder / 'config_sentence_transformers.json'}: prompts is {str(prompts)[:80]!r}; allowed are names with texts.")
    if similarity not in ("cosine", "dot"):
        raise ModelError(
            f"{folder / 'config_sentence_transformers.json'}: similarity_fn_name is {similarity!r}; computed are cosine and dot."
        )
    return Sentence(
        pools,
        tuple(steps),
        int(limit) if isinstance(limit, int | float) and 0 < limit < 1 << 24 else 0,  # larger numbers mean: no limit
        own.get("do_lower_case") is True,
        prompts,
        more.get("default_prompt_name"),
        prompt_counts,
        "dot" if similarity == "dot" else "cosine",
    )


def beside(folder: Path) -> list[Path]:
    """The files, by their places in the folder, that make a sentence model of the transformer in it; [] for a folder without modules.json.

    Raises ModelError for a module that is not understood.
    """
    text = read_optional(folder / "modules.json", _LARGEST) if folder.is_dir() else None
    if text is None:
        return []
    listed = parse_json(text.encode("utf-8"), str(folder / "modules.json"))
    modules = [_module(folder, entry)[1] for entry in listed] if isinstance(listed, list) else []
    own = [Path(name) for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")]
    inside = [place.relative_to(folder) / name for place in modules if place != folder for name in ("config.json", "model.safetensors")]
    return [name for name in [*own, *inside] if (folder / name).is_file()]


def carry(source: Path, folder: Path) -> bool:
    """Copies what makes a sentence model of `source` into `folder`; False where there is nothing of the kind."""
    more = beside(source)
    for name in more:
        durable.make_folder((folder / name).parent)
        durable.write_bytes(folder / name, (source / name).read_bytes())
    return bool(more)


def limit_to(folder: Path, limit: int) -> None:
    """Makes the sentence model in `folder` read at most `limit` tokens of a text; one that reads fewer goes on reading those."""
    name = "sentence_bert_config.json"
    own = _settings(folder / name, _OWN_KEYS)
    before = own.get("max_seq_length")
    most = min(before, limit) if isinstance(before, int) and before > 0 else limit
    durable.write_json(folder / name, {**own, "max_seq_length": most})


def write_plain(folder: Path, width: int, limit: int) -> None:
    """Makes a sentence model of the transformer in `folder`: the mean of all tokens, normalised, of texts of at most `limit` tokens."""
    names = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": number, "name": str(number), "path": place, "type": f"sentence_transformers.models.{name}"}
        for number, (name, place) in enumerate(names)
    ]
    durable.make_folder(folder / "1_Pooling")
    durable.write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True})
    durable.make_folder(folder / "2_Normalize")
    durable.write_json(folder / "2_Normalize" / "config.json", {})
    durable.write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    durable.write_text(folder / "modules.json", json.dumps(listed, indent=2) + "\n")


_OWN_KEYS = {"max_seq_length", "do_lower_case", "modality_config"}
_POOLING_KEYS = {"word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt", *_OLD_POOLS}
_MODEL_KEYS = {"__version__", "prompts", "default_prompt_name", "similarity_fn_name"}


def _settings(path: Path, known: set[str]) -> dict[str, Any]:
    """A configuration, {} where there is none. Raises ModelError for a setting that changes something and is not understood."""
    text = read_optional(path, _LARGEST)
    found = {} if text is None else parse_json(text.encode("utf-8"), str(path))
    if not isinstance(found, dict):
        raise ModelError(f"{path} must hold a JSON object. Fetch it again.")
    for name, value in found.items():
        if name not in known and not (name in _NO_CHANGE and (value in (None, {}, []) or value in _NO_CHANGE[name])):
            raise ModelError(f"{path}: {name} is {str(value)[:80]!r}. It is not understood, so the vectors would be others.")
    return found


def _module(folder: Path, entry: Any) -> tuple[str, Path]:
    """(name of the module, its folder) of an entry of modules.json."""
    kind, place = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(place, str) or (place and not re.fullmatch(r"\w[\w.\-]*", place, re.ASCII)):
        raise ModelError(
            f"{folder / 'modules.json'} has the entry {str(entry)[:120]!r}; read are a type and the name of a folder in this one."
        )
    name = kind.rpartition(".")[2]
    if not kind.startswith("sentence_transformers.") or name not in ("Transformer", "Pooling", "Dense", "Normalize"):
        raise ModelError(
            f"{folder / 'modules.json'} names the module {kind!r}, which is not understood, so the vectors would be others. "
            "Understood are Transformer, Pooling, Dense and Normalize of sentence_transformers."
        )
    return name, folder / place


def _pooling(path: Path, config: dict[str, Any], width: int) -> tuple[tuple[str, ...], bool]:
    """(how tokens become one vector, whether the prompt's tokens count)."""
    size = config.get("embedding_dimension", config.get("word_embedding_dimension", width))
    if size != width:
        raise ModelError(f"{path}: the pooling is made for vectors of {size!r} numbers, the transformer gives {width}.")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _OLD_POOLS.items() if config.get(name) is True] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in POOLS for mode in modes):
        raise ModelError(f"{path}: pooling_mode is {modes!r}; allowed: {', '.join(POOLS)}, or a list of them.")
    return tuple(modes), config.get("include_prompt", True) is not False


def _dense(place: Path, width: int) -> Dense:
    from safetensors.numpy import load_file

    config = read_json(place / "config.json", _LARGEST)
    _settings(place / "config.json", {"in_features", "out_features", "bias", "activation_function"})
    act = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    name = act.rpartition(".")[2]
    if not act.startswith("torch.nn.modules.") or name not in _ACTIVATIONS:
        raise ModelError(f"{place / 'config.json'}: activation_function is {act!r}; computed are {', '.join(_ACTIVATIONS)} of torch.nn.")
    file = place / "model.safetensors"
    if not file.is_file():
        raise ModelError(f"{place} has no model.safetensors. Pickled weights can run code and are not read; save the model again.")
    header = read_header(file)
    shape = (config.get("out_features"), width)
    wanted = {"linear.weight": shape} | ({"linear.bias": shape[:1]} if config.get("bias", True) else {})
    if {key: slot.shape for key, slot in header.items()} != wanted or any(slot.dtype != "F32" for slot in header.values()):
        there = {key: (slot.dtype, list(slot.shape)) for key, slot in header.items()}
        raise ModelError(f"{file} holds {str(there)[:200]}; its place in the model asks for {wanted} in F32.")
    if file.stat().st_size > _LARGEST_DENSE:
        raise ModelError(f"{file} has {file.stat().st_size:,} bytes; at most {_LARGEST_DENSE:,} are read.")
    tensors = load_file(file)
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), _ACTIVATIONS[name])
