"""What may be asked of an engine, checked once where it is asked, so that a step meets nothing that it does not know.

Every check names the value it was given, what is allowed, and what to do. Numbers of numpy and torch are numbers here; True is none.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from ..binding import Contract
from ..errors import RecipeError
from ..nn.transformer import Transformer
from .request import Allowed, Constraint

_followed: WeakValueDictionary[int, Constraint] = WeakValueDictionary()  # by the identity of those that a request follows
_lock = Lock()


def whole(name: str, value: Any, least: int, most: int | None = None, more: str = "", never: bool = False) -> int:
    """A whole number from `least` to `most`. more: what is to be said of it, too; never: no number is allowed here."""
    found = _integer(value)
    if never or found is None or found < least or (most is not None and found > most):
        span = f"{least} and more" if most is None else f"{least} to {most}"
        raise RecipeError(f"{name} is {_short(value)}; allowed: {span}, whole numbers{more}.")
    return found


def _short(value: Any) -> str:
    """As a message shows it: not longer than a line."""
    return repr(value)[:80]


def _integer(value: Any) -> int | None:
    if isinstance(value, bool | np.bool_):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RecipeError(f"{name} is {_short(value)}; allowed: True, False.")
    return value


def prompt_ids(prompt: Any, contract: Contract, vocab: int, reads: bool) -> list[int]:
    """The ids of a text or of a sequence of ids. reads: as an encoder reads it."""
    if isinstance(prompt, str):
        return contract.whole(prompt) if reads else contract.prompt(prompt)
    if not isinstance(prompt, Iterable) or isinstance(prompt, bytes):
        raise RecipeError(f"the prompt is {_short(prompt)}; allowed: a text, or a list of ids.")
    return _ids("the prompt holds", prompt, vocab)


def stops(given: Any, contract: Contract, vocab: int) -> list[int]:
    """Ids that end an answer, beside the model's own. Those of a turn that the model has no row for are never written."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise RecipeError(f"stop_ids is {_short(given)}; allowed: a list of ids.")
    ids = list(given)
    beyond = contract.turn_end if any(isinstance(token, int) and token >= vocab for token in ids) else ()
    return _ids("stop_ids hold", [token for token in ids if token not in beyond], vocab)


def _ids(where: str, given: Iterable[Any], vocab: int) -> list[int]:
    ids = list(given)
    found = [_integer(token) for token in ids]
    for token, id in zip(ids, found, strict=True):
        if id is None or not 0 <= id < vocab:
            raise RecipeError(f"{where} the id {_short(token)}; this model's ids go from 0 to {vocab - 1}.")
    return [id for id in found if id is not None]


def tenant_salt(tenant: Any) -> bytes:
    if not isinstance(tenant, str):
        raise RecipeError(f"tenant is {_short(tenant)}; allowed: a text.")
    return tenant.encode("utf-8", "surrogatepass")


def mask(constraint: Constraint, vocab: int) -> Allowed | None:
    """What a constraint allows now (V,), None: anything. Raises RecipeError for what is no such mask."""
    allowed = constraint.allowed()
    if allowed is None or (getattr(allowed, "dtype", None) == np.bool_ and allowed.shape == (vocab,)):
        return allowed
    if getattr(allowed, "dtype", None) == np.bool_ and allowed.ndim == 1:
        raise RecipeError(f"the constraint was made for {len(allowed)} ids; this model has {vocab}: give it vocab={vocab}.")
    raise RecipeError(f"the constraint allows {_short(allowed)}; allowed() gives None or a numpy array of {vocab} booleans.")


def check_constraint(constraint: Any, vocab: int) -> None:
    """Raises RecipeError for what is no `Constraint`, or one for another model."""
    if isinstance(constraint, Future):
        raise RecipeError("the constraint is a Future, as `later` gives it; wait for it: constraint=future.result().")
    if not callable(getattr(constraint, "allowed", None)) or not callable(getattr(constraint, "accept", None)):
        raise RecipeError(f"the constraint is {_short(constraint)}; allowed: a form, as json_schema, regex, choice and grammar make them.")
    mask(constraint, vocab)


def claim(constraint: Constraint) -> None:
    """One constraint follows one request: a second one would meet it where the first has left it. Raises RecipeError for that."""
    with _lock:
        if _followed.get(id(constraint)) is constraint:
            raise RecipeError("this form follows another request already; each needs one of its own: give form.fresh(), or make a new one.")
        try:
            _followed[id(constraint)] = constraint
        except TypeError:  # a class with __slots__: whether it was given before cannot be told
            pass


def several(prompts: Any) -> Sequence[Any]:
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
        raise RecipeError(f"the prompts are {_short(prompts)}; allowed: a list of texts, or of lists of ids. For one: [prompt].")
    return list(prompts)


def opened(loaded: Any) -> None:
    """Raises RecipeError for what is no opened model."""
    if not isinstance(getattr(loaded, "model", None), Transformer) or not hasattr(loaded, "contract"):
        raise RecipeError(f"an engine runs an opened model, not {_short(loaded)}: give it what quire.load(path) returns.")


def draft(given: Any, exact: bool, reads: bool) -> Transformer | None:
    """The draft model among the ways of guessing; None: "lookup"."""
    if exact:
        raise RecipeError("exact answers are computed token by token, so guessing cannot help: leave `guess` or `exact` out.")
    if given == "lookup":
        return None
    model = getattr(given, "model", given)  # an opened one, or its `model`
    if not isinstance(model, Transformer):
        raise RecipeError(f'guess is {_short(given)}; allowed: "lookup", an opened model that writes ahead, or None.')
    if reads:
        raise RecipeError('a draft model guesses for decoders; for an encoder-decoder give guess="lookup".')
    if model.config.kind != "decoder":
        raise RecipeError(f"the draft model is of the kind {model.config.kind}. A draft must be a decoder with the same tokenizer.")
    return model
