"""Does a sample of Python parse? The share that does is the quickest honest sign that a small model has learnt the language's grammar.

A sample stops where its token budget ends, usually in the middle of something, and that is not the model's mistake. So the definition is:

1. Take the prompt and its completion as one text, and cut it after its last complete line.
2. While the interpreter says that the text is *unfinished* (an open bracket or string, a `def` without a body), drop its last line. An
   unfinished tail is not counted; an *error* is: anything that no continuation could mend rejects the sample.
3. The sample is accepted when what is left parses and holds at least one whole statement of which the model wrote a part.

By 3 an empty completion, blank lines, comments and one endless string are rejected, so a model gains nothing by saying nothing. The text is
compiled to a syntax tree and never run.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from typing import Literal

_UNFINISHED_ALLOWED = 0x4000  # CPython's PyCF_ALLOW_INCOMPLETE_INPUT (3.11+), which `codeop` uses for the interactive prompt
_LONGEST = 16_384  # characters; a longer sample is cut, as the parser's time and depth grow with it


def _parse(text: str) -> ast.Module | Literal["unfinished", "error"]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in a model's strings are not our user's concern
            tree = compile(text, "<sample>", "exec", ast.PyCF_ONLY_AST | _UNFINISHED_ALLOWED)
    except SyntaxError as error:
        return "unfinished" if "incomplete input" in str(error) else "error"
    except (ValueError, RecursionError, MemoryError):  # null bytes; nesting deeper than the parser allows
        return "error"
    assert isinstance(tree, ast.Module)
    return tree


def parses(completion: str, prompt: str = "") -> bool:
    """Is `completion`, written after `prompt`, Python so far? See the definition above."""
    text = (prompt + completion)[:_LONGEST]
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    shortest = len(prompt)
    while lines and sum(map(len, lines)) > shortest:
        tree = _parse("".join(lines))
        if tree == "error":
            return False
        if isinstance(tree, ast.Module):
            return _wrote_a_statement(tree, prompt)
        lines.pop()
    return False


def _wrote_a_statement(tree: ast.Module, prompt: str) -> bool:
    """Does a statement of the tree end beyond the prompt's end?"""
    before = prompt.split("\n")
    end = (len(before), len(before[-1].encode()))  # line from 1, column in UTF-8 bytes, as the tree counts
    return any((node.end_lineno or 0, node.end_col_offset or 0) > end for node in tree.body)


def share_that_parses(completions: Iterable[str], prompt: str = "") -> float:
    """The accepted share, 0 to 1; raises ValueError for no completions."""
    accepted = [parses(completion, prompt) for completion in completions]
    if not accepted:
        raise ValueError("the share of no samples is not defined; give at least one completion")
    return sum(accepted) / len(accepted)
