"""Soft prompts: vectors in front of a text that are trained while the whole model is frozen (Lester et al. 2021).

They are virtual tokens: ids from the vocabulary's end on, which the embedding knows and no text can hold. The model's own forward puts them
before what it reads first (`PromptFront`), so training, evaluation and decoding all see them. P-tuning (Liu et al. 2021) trains the vectors
through a small network, which is gone from what is saved. In an encoder-decoder the prompt stands before what the encoder reads.

On disk it is PEFT's prompt tuning: `prompt_embeddings` (n, D).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binding import Binding
from ..errors import ContextError, ModelError, RecipeError, WeightsError
from ..families.folder import ModelFolder
from ..nn.attention import AttnContext
from ..nn.config import LMHead, ModelConfig
from ..nn.transformer import Transformer
from .folder import CONFIG, WEIGHTS, proven, read_json, read_slots, read_tensors, refuse_unknown, task_type, weights_hash, write
from .lora import Wrapper
from .surgery import DEFAULT, activate, check_name, put

MAX_TOKENS = 1 << 16
KINDS = ("PROMPT_TUNING", "P_TUNING")
_KEY = "prompt_embeddings"
_HARMLESS = frozenset(
    """auto_mapping base_model_name_or_path revision inference_mode peft_version task_type num_attention_heads num_layers
    prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs encoder_reparameterization_type
    encoder_hidden_size encoder_num_layers encoder_dropout""".split()
)
_READ = frozenset("peft_type num_virtual_tokens token_dim num_transformer_submodules".split())


class PromptVectors(nn.Module):
    """The vectors (n, D) of one prompt; hidden: the width of P-tuning's network, 0 for none."""

    def __init__(self, first: Tensor, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(first)
        width = first.shape[1]
        self.network: nn.ModuleList | None = None
        if hidden:
            self.network = nn.ModuleList(nn.Linear(m, n) for m, n in ((width, hidden), (hidden, hidden), (hidden, width)))
            with torch.no_grad():
                for part in self.network.parameters():
                    bound = (width if part.shape[-1] == width and part.ndim == 2 else hidden) ** -0.5
                    part.uniform_(-bound, bound, generator=generator)
            self.network.to(first.device)

    def forward(self) -> Tensor:
        x: Tensor = self.weight
        for place, layer in enumerate(self.network or ()):
            x = layer(x if place == 0 else F.relu(x))
        return x


class PromptEmbedding(Wrapper):
    """tokens (B, T) -> (B, T, D), where ids from the vocabulary's end on are the active prompt's vectors."""

    @property
    def weight(self) -> Tensor:
        """The base's table: for its dtype, device and size."""
        return cast(nn.Embedding, self.base).weight

    def forward(self, tokens: Tensor) -> Tensor:
        if self.active is None:
            return cast(Tensor, self.base(tokens))
        vocab = self.weight.shape[0]
        virtual = tokens >= vocab
        y: Tensor = self.base(tokens.masked_fill(virtual, 0))
        vectors = F.embedding((tokens - vocab).clamp(min=0), self.adapters[self.active]())
        return torch.where(virtual.unsqueeze(-1), vectors.to(y.dtype), y)

    def merged(self) -> nn.Module:
        raise ModelError("A soft prompt is read with each text and cannot be merged into weights. Keep it beside its base.")


def attach_prompt(
    model: Transformer,
    length: int,
    *,
    text: Sequence[int] = (),
    hidden: int = 0,
    generator: torch.Generator | None = None,
    name: str = DEFAULT,
) -> None:
    """Puts a prompt of `length` virtual tokens on a model, freezes the rest, and makes it the active one.

    text: the ids of a text whose embeddings it begins with, repeated or cut to the length; () draws ids of the vocabulary. hidden: the
    width of P-tuning's network. Raises RecipeError for a length, id or name that cannot be, ModelError for a model that takes no prompt.
    """
    config = model.config
    check_name(model, name)
    if not 1 <= length < min(config.context, MAX_TOKENS):
        raise RecipeError(f"the prompt's length is {length}; allowed is 1 to {min(config.context, MAX_TOKENS) - 1}.")
    if not 0 <= hidden <= MAX_TOKENS:
        raise RecipeError(f"hidden is {hidden}; allowed is 0 (no network) to {MAX_TOKENS}.")
    if wrong := [number for number in text if not 0 <= number < config.vocab]:
        raise RecipeError(f"the text holds the id {wrong[0]}; allowed is 0 to {config.vocab - 1}.")
    _takes(config)
    draw = generator or torch.Generator().manual_seed(0)
    ids = torch.tensor(text, dtype=torch.long).repeat(-(-length // len(text)))[:length] if text else None
    ids = torch.randint(config.vocab, (length,), generator=draw) if ids is None else ids
    if not isinstance(model.embed, PromptEmbedding):
        if isinstance(model.embed, Wrapper):
            raise ModelError("The embedding is adapted already. A prompt and a low-rank adapter of the embedding do not go together.")
        put(model, "embed", PromptEmbedding(cast(nn.Module, model.embed)).train(model.training))
    embed = cast(PromptEmbedding, model.embed)
    first = embed.weight.detach()[ids.to(embed.weight.device)].float()
    embed.adapters[name] = PromptVectors(first, hidden, draw).train(model.training)
    model.front = model.front or PromptFront(model)
    activate(model, name)


def _takes(config: ModelConfig) -> None:
    """Raises ModelError for a model that writes no text, or whose embeddings are changed before the first layer reads them."""
    if not isinstance(config.head, LMHead):
        raise ModelError("A soft prompt is for models that write text: it leaves a head of labels untrained. Adapt this one with LoRA.")
    if config.embed_scale != 1.0 or config.embed_width:
        raise ModelError("This model scales or widens its embeddings, and a prompt's vectors with them, which PEFT's form does not say.")


def prompt_ids(model: Transformer) -> list[int]:
    """The ids of the active prompt, to stand before a text's; [] where there is none."""
    embed = model.embed
    if not isinstance(embed, PromptEmbedding) or embed.active is None:
        return []
    vocab = embed.weight.shape[0]
    return list(range(vocab, vocab + len(cast(PromptVectors, embed.adapters[embed.active]).weight)))


class PromptFront:
    """Puts the ids of the active prompt before what a model reads first: a decoder's text, or an encoder's."""

    pages = True

    def __init__(self, model: Transformer) -> None:
        self.model, self.whole = model, model.config

    @property
    def ids(self) -> list[int]:
        return prompt_ids(self.model)

    def settle(self) -> None:
        """The prompt takes its positions from the model's context."""
        self.model.config = replace(self.whole, context=self.whole.context - len(prompt_ids(self.model)))

    def enter(self, tokens: Tensor, ctx: AttnContext, types: Tensor | None = None) -> tuple[Tensor, AttnContext, Tensor | None, int]:
        """Raises ContextError for packed rows: each of their texts would need a prompt.

        Where pages hold what was read, the engine has put the ids before each request's own.
        """
        ids, cache = prompt_ids(self.model), ctx.cache
        if not ids or ctx.paged is not None:
            return tokens, ctx, types, 0
        if ctx.segments is not None:
            raise ContextError("Several texts share a row, and each would need the prompt. Give each text a row of its own.")
        rows, count = tokens.shape[0], len(ids)
        first = cache is None or cache.length == 0
        positions = None if ctx.positions is None else ctx.positions + count
        if first and positions is not None:
            positions = torch.cat((torch.arange(count, device=tokens.device).expand(rows, -1), positions), 1)
        ctx = replace(ctx, keep=self.seen(ctx.keep), positions=positions)
        if not first:
            return tokens, ctx, types, 0
        if cache is not None:
            cache.widen(count)
        tokens = torch.cat((torch.tensor(ids, device=tokens.device).expand(rows, -1), tokens), 1)
        return tokens, ctx, None if types is None else F.pad(types, (count, 0)), count

    def seen(self, keep: Tensor | None) -> Tensor | None:
        return None if keep is None else F.pad(keep, (len(prompt_ids(self.model)), 0), value=True)


def save_prompt(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> Path:
    """Writes one prompt as a folder that Quire and PEFT open, whole or not at all; what a network made of the vectors is written.

    opened, base: the base's folder and its binding, which the prompt then carries. Raises StorageError for a folder that is not empty.
    """
    config = opened.model_config
    stack = config.decoder or config.encoder
    assert stack is not None
    with torch.no_grad():
        vectors = _vectors(model, name)().detach().float()
    said = {
        "peft_type": "PROMPT_TUNING",
        "task_type": task_type(config),
        "base_model_name_or_path": str(opened.path),
        "inference_mode": True,
        "num_virtual_tokens": vectors.shape[0],
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": stack.layers[0].attn.heads,
        "num_layers": len(stack.layers),
        "prompt_tuning_init": "RANDOM",
    }
    return write(Path(path), {_KEY: vectors}, said, base, opened.changed)


def _vectors(model: Transformer, name: str) -> PromptVectors:
    embed = model.embed
    if not isinstance(embed, PromptEmbedding) or name not in embed.adapters:
        raise RecipeError(f"there is no soft prompt {name!r} on this model.")
    return cast(PromptVectors, embed.adapters[name])


def is_prompt(path: Path | str) -> bool:
    """Whether an adapter's folder holds a soft prompt."""
    return read_json(Path(path)).get("peft_type") in KINDS


def open_prompt(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> str:
    """Reads a prompt's folder, Quire's or PEFT's (prompt tuning, P-tuning), onto a model as its active one; returns a note, "" for none.

    Raises BindingError for a prompt of another base or one that was changed, ModelError for a config that asks for what is not computed,
    WeightsError for weights that do not fit.
    """
    path, width = Path(path), opened.model_config.width
    config = read_json(path)
    _takes(opened.model_config)
    count = _length(config, opened.model_config)
    slots = read_slots(path)
    note = proven(path, base, weights_hash(path), opened.path)
    rows = count * int(config.get("num_transformer_submodules") or 1)
    shape = slots[_KEY].shape if _KEY in slots else None
    if set(slots) != {_KEY} or shape != (rows, width):
        raise WeightsError(
            f"{path / WEIGHTS} holds {', '.join(re.sub(r'[^ -~]', '?', key)[:40] for key in sorted(slots)[:3])} of shape {shape}; "
            f"a prompt is {_KEY} of shape {(rows, width)}."
        )
    vectors = read_tensors(path, slots)[_KEY][:count]  # PEFT stores an encoder-decoder's twice, and reads the first
    attach_prompt(model, count, name=name)
    with torch.no_grad():
        _vectors(model, name).weight.copy_(vectors)
    return note


def _length(config: dict[str, Any], model: ModelConfig) -> int:
    """How many virtual tokens adapter_config.json asks for. Raises ModelError naming the field."""
    sides = (1, 2) if model.kind == "seq2seq" else (1,)
    if config.get("peft_type") not in KINDS:
        raise ModelError(f"{CONFIG}: peft_type is {str(config.get('peft_type'))[:80]!r}; allowed is {' or '.join(KINDS)}.")
    refuse_unknown(config, _HARMLESS | _READ)
    count, width = config.get("num_virtual_tokens"), config.get("token_dim")
    if type(count) is not int or not 1 <= count < min(model.context, MAX_TOKENS):
        raise ModelError(f"{CONFIG}: num_virtual_tokens is {str(count)[:80]!r}; allowed is 1 to {min(model.context, MAX_TOKENS) - 1}.")
    if width not in (None, model.width):
        raise ModelError(f"{CONFIG}: token_dim is {str(width)[:80]!r}; this base has a width of {model.width}.")
    if config.get("num_transformer_submodules") not in (None, *sides):
        raise ModelError(
            f"{CONFIG}: num_transformer_submodules is {config['num_transformer_submodules']!r}; allowed for this base: {sides}."
        )
    return count
