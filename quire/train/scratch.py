"""A model that begins from nothing: its config.json from the recipe's sizes, its first weights from the seed, its tokenizer from the data.

Running text is tokenized before there is a model (`prepare`). A supervised run begins from a model folder: where the recipe names none, one
is made here, in the run, with a tokenizer trained on the training rows alone, and from then on nothing differs from tuning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from .. import durable
from ..errors import RecipeError
from ..families import family_for
from ..families.family import FAMILIES
from ..nn.config import ModelConfig, Sizes
from ..nn.init import initialise
from ..nn.transformer import Transformer
from ..tasks.tuning.schemas import TASKS, Row
from ..text import training
from ..text.tokenizer import Tokenizer
from .finish import write_model
from .folder import RunFolder
from .recipe import ModelPart, TrainRecipe

# What can be learned from nothing, by the usual kind of model. A conversation, or nearness, needs one that knows a language already.
_LEARNED = ("rewrite", "classify", "tag", "answer")
_SPECIAL = {"seq2seq": "rewrite", "encoder": "masked", "decoder": "causal"}
_CHOICES = get_args(get_type_hints(ModelPart)["family"])
_PLURAL = {"decoder": "decoders", "encoder": "encoders", "seq2seq": "encoder-decoders"}


def first_weights(config: ModelConfig, seed: int) -> Transformer:
    """A new model with the weights that training starts from: those of the seed, whatever torch's own generator has been used for."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device="cpu")
    initialise(model, torch.Generator().manual_seed(seed))
    return model


def new_config(recipe: TrainRecipe, vocab: int, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
    """A stock config.json for the recipe's sizes. An answer begins with the padding token, in BART too: tasks and contract say so."""
    part = recipe.model
    sizes = Sizes(
        vocab=vocab,
        width=part.width,
        layers=part.layers,
        heads=part.heads,
        kv_heads=part.kv_heads,
        hidden=part.hidden,
        context=part.context,
        tied=part.tied,
        dropout=part.dropout,
        bos=tokenizer.bos if tokenizer else None,
        eos=tokenizer.eos if tokenizer else None,
        pad=tokenizer.pad if tokenizer else None,
    )
    config = FAMILIES[part.family].new(sizes)
    return config | ({"decoder_start_token_id": sizes.pad} if sizes.pad is not None and "decoder_start_token_id" in config else {})


def agree(recipe: TrainRecipe) -> None:
    """Raises RecipeError for a supervised task that cannot begin from nothing, or not with this family or frozen parts."""
    name, family = recipe.task.name, recipe.model.family
    if name not in _LEARNED:
        raise RecipeError(f"task.name = '{name}' tunes a model that is there: give its folder or name with model.start.")
    wanted, kind = TASKS[name].kinds[0], FAMILIES[family].kind
    if kind != wanted:
        others = ", ".join(sorted(other for other in _CHOICES if FAMILIES[other].kind == wanted))
        raise RecipeError(
            f"model.start is empty, so a new model is made, and model.family = '{family}' makes {_PLURAL[kind]}. "
            f"task.name = '{name}' needs {_PLURAL[wanted]}: give model.family ({others}), or a model that is there with model.start."
        )
    if recipe.adapt.frozen:
        raise RecipeError(
            f"adapt.frozen = {list(recipe.adapt.frozen)} keeps parts of a model as they are, and a new one has learned nothing yet: "
            "model.start is empty. Take adapt.frozen out, or name a model."
        )
    FAMILIES[family].build(new_config(recipe, max(1, recipe.tokenizer.vocab)))


def begin(run: RunFolder, recipe: TrainRecipe, rows: Sequence[Row], say: Callable[[str], None]) -> Path:
    """The folder of a new model in the run: first weights and a tokenizer trained on `rows`. One that is whole already is used again."""
    folder = run.path / "start"
    if (folder / "config.json").is_file():
        return folder
    path = recipe.tokenizer.path
    tokenizer = Tokenizer.open(path) if path else _trained(recipe, rows, say)
    config = new_config(recipe, tokenizer.vocab_size, tokenizer)
    model = first_weights(family_for(config).build(config), recipe.seed)
    with durable.building(folder) as partial:
        write_model(partial, tokenizer, model, config, {"run": run.path.name, "step": 0})
    return folder


def _trained(recipe: TrainRecipe, rows: Sequence[Row], say: Callable[[str], None]) -> Tokenizer:
    """Learned from what rows read and, where that is text too, from their answers."""
    part, began = recipe.tokenizer, time.perf_counter()

    def texts() -> Iterator[str]:
        for row in rows:
            yield from row.reads()
            if row.schema == "rewrite":
                yield from row.answers()

    special = _SPECIAL[FAMILIES[recipe.model.family].kind]
    tokenizer = training.train(part.kind, texts(), part.vocab, lowercase=part.lowercase, special=special)
    say(f"tokenizer: {part.kind}, {tokenizer.vocab_size:,} tokens, trained in {time.perf_counter() - began:.1f} s")
    return tokenizer
