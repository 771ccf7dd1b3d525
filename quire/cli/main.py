"""`quire VERB ...`: a table of verbs. Only the file of the verb that was asked for is imported, so `--help` stays quick and torch-free.

Exit codes: 0 done; 1 it is not the same model, or training cannot go on; 2 the input was wrong; 130 and 143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from ..errors import QuireError, nearest

# group: {verb: (file under quire.cli, or file:function where a file holds several verbs; what it does)}
GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "train": {
        "quickstart": ("quickstart", "train, measure, break and prove a first model in five minutes"),
        "train": ("train", "train a model from a recipe and --key value options"),
        "tune": ("tune", "teach a model with rows; task and settings are chosen"),
        "sweep": ("sweep", "try a few values of a recipe: one table at the end"),
        "resume": ("resume", "go on with a stopped run, to the same bits"),
        "check": ("check", "what is wrong with rows, and how a model reads them"),
        "plan": ("plan", "what a recipe will cost: parameters, memory, tokens, time"),
        "tokenizer": ("tokenizer", "train a tokenizer, report on one, encode and decode"),
    },
    "use": {
        "generate": ("generate", "continue prompts"),
        "chat": ("chat", "talk with a model in the terminal"),
        "serve": ("serve", "put models behind the APIs that tools speak, and a page to talk"),
        "key": ("key", "make a key for those who may ask a server"),
        "translate": ("rewrite:translate", "texts in another language"),
        "summarize": ("rewrite:summarize", "texts made short"),
        "text2text": ("rewrite:text2text", "what a model makes of texts, as its prompt asks for"),
        "fill": ("fill", "what stood where a word is missing"),
        "classify": ("classify", "which label fits a text, or a pair of texts"),
        "tag": ("tag", "names, places and other entities in a text"),
        "answer": ("answer", "where in a text a question is answered"),
        "score": ("score", "how likely a model finds a text, token by token"),
        "next-sentence": ("classify:next_sentence", "does one text follow another"),
        "embed": ("embed", "texts as vectors"),
        "similar": ("embed:similar", "which texts mean the same"),
        "cluster": ("embed:cluster", "texts in groups of like meaning"),
        "search": ("search", "find what you need in the standard library by meaning"),
    },
    "get": {
        "pull": ("pull", "fetch a model or a data set from the hub: pinned and hashed"),
        "list": ("list", "list the models and data sets that were pulled"),
        "rm": ("rm", "remove a pulled model or data set, or one revision of it"),
        "convert": ("convert", "turn a .gguf file or a llama2.c model into a model folder"),
        "merge": ("merge", "an adapter and its base as one model, proven the same"),
        "export": ("export", "a model or an adapter as a folder for other tools"),
    },
    "look": {
        "runs": ("runs", "list the runs in a folder"),
        "compare": ("compare", "two or more runs side by side"),
        "report": ("report", "write a run's report as one HTML page"),
        "eval": ("eval", "bits per byte of a model on your text, beside gzip and others"),
        "inspect": ("inspect", "what is in a model folder, and what it is for"),
        "verify": ("verify", "is it still the same model? writes the certificate"),
        "bench": ("bench", "how fast a model is here, beside the machine's limits"),
        "doctor": ("doctor", "what this machine offers and what is installed"),
    },
}
VERBS = {verb: entry for group in GROUPS.values() for verb, entry in group.items()}


def usage() -> str:
    lines = ["usage: quire VERB [options]     (quire VERB --help tells more)"]
    for group, verbs in GROUPS.items():
        lines += ["", group, *(f"  {verb:<15}{text}" for verb, (_, text) in verbs.items())]
    return "\n".join([*lines, "", "  --version      print the version"])


def verb_function(verb: str) -> Callable[[list[str]], int]:
    """What runs a verb; its file is imported here and not before."""
    file, _, name = VERBS[verb][0].partition(":")
    found: Callable[[list[str]], int] = getattr(importlib.import_module(f"quire.cli.{file}"), name or "run")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()  # here, where a reader that has left is no error
        return code
    except QuireError as error:
        print(f"quire {words[0]}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left (`quire generate ... | head`); nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    verb, rest = words[0], words[1:]
    if verb == "--version":
        from .. import __version__

        print(f"quire {__version__}")
        return 0
    if verb not in VERBS:
        print(f"quire: there is no verb '{verb}'.{nearest(verb, list(VERBS))}\n\n{usage()}", file=sys.stderr)
        return 2
    # GNU OpenMP's threads spin without end for one another. When another program takes one of the processors, that is most of a step's time
    # (docs/diary.md); a bounded spin costs nothing where there is none. It is read when torch is loaded, so it is set here.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    warnings.showwarning = _warn
    return verb_function(verb)(rest)


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    """A user reads the warning, not the line of code it came from."""
    print(f"quire: warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
