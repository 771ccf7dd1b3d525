"""The public names: exactly these, each one there, and each imported only when it is used."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import quire

PUBLIC = {
    "Answer",
    "Beam",
    "Binding",
    "BindingError",
    "Certificate",
    "CheckpointError",
    "Chunk",
    "Completion",
    "ContextError",
    "Contract",
    "DataError",
    "Decoder",
    "Encoder",
    "EncoderEngine",
    "Engine",
    "Entity",
    "ExtraError",
    "HubError",
    "Message",
    "ModelError",
    "QuireError",
    "RecipeError",
    "Sampling",
    "Score",
    "Seq2Seq",
    "StorageError",
    "TokenLogprob",
    "Tokenizer",
    "TrainingError",
    "WeightsError",
    "__version__",
    "load",
}


def test_the_public_names_are_these() -> None:
    """A new one is a promise, and a missing one a broken promise: change this list knowingly, and the CHANGELOG with it."""
    assert set(quire.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(quire, name)
    assert name in dir(quire)
    if inspect.isclass(value) and not issubclass(value, Exception):
        assert inspect.getdoc(value), f"quire.{name} has no docstring"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'laod'"):
        _ = quire.laod


def test_every_public_error_is_a_quire_error() -> None:
    for name in PUBLIC:
        if name.endswith("Error"):
            assert issubclass(getattr(quire, name), quire.QuireError)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING, the lazy table and __all__ cannot drift apart."""
    tree = ast.parse(Path(quire.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == PUBLIC
