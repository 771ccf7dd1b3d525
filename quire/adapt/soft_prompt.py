"""Soft prompts: vectors in front of a text that are trained while the whole model is frozen (Lester et al. 2021).

They are virtual tokens: ids from the vocabulary's end on, which the embedding knows and no text can hold. The model's own forward puts them
before what it reads first (`PromptFront`), so training, evaluation and decoding all see them. P-tuning (Liu et al. 2021) trains the vectors
through a small network, which is gone from what is saved. In an encoder-decoder the prompt stands before what the encoder reads.

An encoder reads its prompt before everything, [CLS] too. So a head that labels a text by its first state reads the first virtual token's,
and one that takes the mean counts the virtual tokens: as PEFT computes it. Labels of tokens, and vectors, are those of the text's own.

On disk it is PEFT's prompt tuning: `prompt_embeddings` (n, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..binding import Binding
from ..errors import ContextError, ModelError, RecipeError
from ..families.folder import ModelFolder
from ..nn.attention import AttnContext
from ..nn.config import ModelConfig
from ..nn.heads import LabelHeadModule
from ..nn.transformer import Transformer
from .folder import read_json
from .lora import Wrapper
from .surgery import DEFAULT, check_name
from .virtual import MAX_TOKENS, check_fields, check_length, length_of, peft_type, put_on, read, save, takes

KINDS = ("PROMPT_TUNING", "P_TUNING")
_HARMLESS = frozenset(
    """prompt_tuning_init prompt_tuning_init_text tokenizer_name_or_path tokenizer_kwargs encoder_reparameterization_type
    encoder_hidden_size encoder_num_layers encoder_dropout""".split()
)


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
    opened: ModelFolder,
    *,
    text: Sequence[int] = (),
    hidden: int = 0,
    generator: torch.Generator | None = None,
    name: str = DEFAULT,
) -> None:
    """Puts a prompt of `length` virtual tokens on a model, freezes the rest but for a label head's classifier, and makes it the active one.

    opened: the folder that the model was built from. text: the ids of a text whose embeddings it begins with, repeated or cut to the
    length; () draws ids of the vocabulary. hidden: the width of P-tuning's network. Raises RecipeError for a length, id or name that cannot
    be, ModelError for a model that takes no prompt.
    """
    config = model.config
    check_name(model, name)
    check_length(config, length, "prompt")
    if not 0 <= hidden <= MAX_TOKENS:
        raise RecipeError(f"hidden is {hidden}; allowed is 0 (no network) to {MAX_TOKENS}.")
    if wrong := [number for number in text if not 0 <= number < config.vocab]:
        raise RecipeError(f"the text holds the id {wrong[0]}; allowed is 0 to {config.vocab - 1}.")
    _takes(config)
    draw = generator or torch.Generator().manual_seed(0)
    ids = torch.tensor(text, dtype=torch.long).repeat(-(-length // len(text)))[:length] if text else None
    ids = torch.randint(config.vocab, (length,), generator=draw) if ids is None else ids
    weight = model.embed.weight
    first = weight.detach()[ids.to(weight.device)].float()
    put_on(model, opened, PromptEmbedding, PromptFront, PromptVectors(first, hidden, draw), name)


def _takes(config: ModelConfig) -> None:
    """Raises ModelError for a model that has no task in PEFT, or whose embeddings are changed before the first layer reads them."""
    takes(config, "soft prompt")
    if config.embed_scale != 1.0 or config.embed_width:
        raise ModelError(
            "This model scales or widens its embeddings; whether a prompt's vectors are meant before or behind that, PEFT's form does not "
            "say. Adapt this model with LoRA."
        )


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

    @property
    def stack(self) -> Literal["encoder", "decoder"]:
        return "decoder" if self.model.encoder is None else "encoder"

    def settle(self) -> None:
        """The prompt takes its positions from the model's context; an encoder's label head finds its states before those of a row."""
        count, head = len(prompt_ids(self.model)), self.model.head
        self.model.config = replace(self.whole, context=self.whole.context - count)
        if isinstance(head, LabelHeadModule) and self.stack == "encoder":
            head.before = count

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
        "token_dim": vectors.shape[1],
        "num_transformer_submodules": 1,
        "num_attention_heads": stack.layers[0].attn.heads,
        "num_layers": len(stack.layers),
        "prompt_tuning_init": "RANDOM",
    }
    return save(path, vectors, said, model, opened, base, name)


def _vectors(model: Transformer, name: str) -> PromptVectors:
    embed = model.embed
    if not isinstance(embed, PromptEmbedding) or name not in embed.adapters:
        raise RecipeError(f"there is no soft prompt {name!r} on this model.")
    return cast(PromptVectors, embed.adapters[name])


def is_prompt(path: Path | str) -> bool:
    """Whether an adapter's folder holds a soft prompt."""
    return peft_type(path) in KINDS


def open_prompt(path: Path | str, model: Transformer, opened: ModelFolder, base: Binding | None = None, name: str = DEFAULT) -> str:
    """Reads a prompt's folder, Quire's or PEFT's (prompt tuning, P-tuning), onto a model as its active one; returns a note, "" for none.

    Raises BindingError for a prompt of another base or one that was changed, ModelError for a config that asks for what is not computed,
    WeightsError for weights that do not fit.
    """
    path, of = Path(path), opened.model_config
    config = read_json(path)
    _takes(of)
    check_name(model, name)
    count = length_of(config, of, KINDS, _HARMLESS)
    sides = (1, 2) if of.kind == "seq2seq" else (1,)
    check_fields(config, {"token_dim": (of.width,), "num_transformer_submodules": sides})
    rows = count * int(config.get("num_transformer_submodules") or 1)
    found = read(path, (rows, of.width), "prompt", model, opened, base)
    vectors = PromptVectors(found.vectors[:count], 0, torch.Generator())  # PEFT stores an encoder-decoder's twice, and reads the first
    put_on(model, opened, PromptEmbedding, PromptFront, vectors, name, found.names)
    found.fill(model, name)
    return found.note
