"""Does a sample of Python parse? The share that does is the quickest honest sign that a small model has learnt the language's grammar.

A sample stops where its token budget ends, usually in the middle of something, and that is not the model's mistake. So the definition is:

1. Take the prompt and its completion as one text, and cut it after its last complete line.
2. An *error*, anything that no continuation could mend, rejects the sample. An *unfinished* end (an open bracket or string, a `def` whose
   body has only begun) does not: the interpreter tells the two apart, as it does at its prompt.
3. The model must have written code: a whole statement, or where the end is unfinished a whole line of code and the beginning of another.

So every piece of real Python counts, whichever line it is cut after, and by 3 a model gains nothing by saying nothing: an empty completion,
blank lines, comments, one endless string or a `def` followed by nothing are rejected. The text is compiled to a syntax tree and never run.
"""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterable
from typing import Literal

_UNFINISHED_ALLOWED = 0x4000  # CPython's PyCF_ALLOW_INCOMPLETE_INPUT (3.11+), which `codeop` uses for the interactive prompt
_LONGEST = 65_536  # characters; a longer sample is cut, as the parser's time and depth grow with it
_NOT_CODE = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER, tokenize.NEWLINE}


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
    text = text[: text.rfind("\n") + 1]
    if len(text) <= len(prompt):
        return False
    tree = _parse(text)
    if isinstance(tree, ast.Module):
        return _wrote_a_statement(tree, prompt)
    return tree == "unfinished" and _wrote_two_lines(text, prompt)


def _end_of(prompt: str) -> tuple[int, str]:
    """(line, counted from 1, of the prompt's end; the text of that line)."""
    lines = prompt.split("\n")
    return len(lines), lines[-1]


def _wrote_a_statement(tree: ast.Module, prompt: str) -> bool:
    """Does a statement of the tree end beyond the prompt's end?"""
    line, last = _end_of(prompt)
    end = (line, len(last.encode()))  # the tree counts columns in UTF-8 bytes
    return any((node.end_lineno or 0, node.end_col_offset or 0) > end for node in tree.body)


def _wrote_two_lines(text: str, prompt: str) -> bool:
    """Does a line of code end beyond the prompt's end, and does other code begin after it?"""
    line, last = _end_of(prompt)
    finished = False
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE:
                finished = finished or token.end > (line, len(last))
            elif finished and token.type not in _NOT_CODE:
                return True
    except (tokenize.TokenError, SyntaxError):
        # The unfinished end itself, an open string or bracket: that is code which has begun.
        return finished
    return False


def share_that_parses(completions: Iterable[str], prompt: str = "") -> float:
    """The accepted share, 0 to 1; raises ValueError for no completions."""
    accepted = [parses(completion, prompt) for completion in completions]
    if not accepted:
        raise ValueError("the share of no samples is not defined; give at least one completion")
    return sum(accepted) / len(accepted)
