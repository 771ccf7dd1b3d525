"""A first model: real text, a tokenizer, a model, a kill in the middle, figures, proofs and a report, in about five minutes.

The run itself is an ordinary run of `quire train` with the recipe below; only the kill, the comparison and the tampering are ours. Training
happens in child processes, because one of them will not survive.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..errors import QuireError, RecipeError, TrainingError
from ..progress import duration
from ..train.recipe import DataPart, LogPart, ModelPart, OptimPart, TaskPart, TokenizerPart, TrainPart, TrainRecipe
from . import proofs
from .lines import parse
from .paint import paint, short
from .train import Live, document, end

PROMPT = "def parse_"
QUESTION = "parse an ISO date"
SEARCHED = ("bisect", "calendar", "csv", "datetime", "fractions", "heapq", "json", "random", "shutil", "statistics", "string", "textwrap")
MARGIN = "   "
_AROUND = 0.25  # share of the minutes that reading, proving and reporting take; the rest trains


@dataclass(frozen=True)
class Quickstart:
    minutes: Annotated[float, tyro.conf.arg(metavar="N")] = 5.0
    """All of it: reading, training, evaluating, proving."""
    text: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATH ...", help_behavior_hint="")] = ()
    """Your own files or folders; without any, the Python standard library's source."""
    out: Annotated[str, tyro.conf.arg(metavar="RUN")] = "runs/quickstart"
    """The run folder; when there is a run in it already, the next free name is taken."""
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0


def recipe_for(options: Quickstart, out: Path) -> TrainRecipe:
    """The run's recipe. docs/diary.md tells what each of these numbers was chosen against."""
    python = not options.text
    return TrainRecipe(
        out=str(out),
        seed=options.seed,
        model=ModelPart(family="llama", width=128, layers=4, heads=4, kv_heads=2, hidden=352, context=256),
        tokenizer=TokenizerPart(kind="bpe", vocab=2048),
        data=DataPart(sources=options.text or ("stdlib",)),
        task=TaskPart(name="causal"),
        optim=OptimPart(name="muon", lr=3e-3, muon_lr=0.01, schedule="wsd", decay=0.4, warmup=0.03, final=0.0),
        train=TrainPart(
            minutes=options.minutes * (1 - _AROUND), batch=8, save_every=100 if options.minutes >= 2 else 5, keep_last=3, sample_every=40
        ),
        log=LogPart(prompts=(PROMPT,) if python else ("The ",), samples=4, sample_tokens=48),
    )


def run(argv: list[str]) -> int:

    options = parse(Quickstart, "quickstart", argv, __doc__)
    if options.minutes <= 0:
        raise RecipeError(f"--minutes {options.minutes:g} must be above 0; about 5 gives a model worth looking at")
    started = time.monotonic()
    out = free_folder(Path(options.out))
    recipe = recipe_for(options, out)

    say(1, "Real text, a tokenizer, a plan, and a model that learns")
    killed = train_until_killed(recipe, out)
    if isinstance(killed, int) and (killed or not (out / "model").is_dir()):
        return killed
    if isinstance(killed, int):
        say(2, f"The run was over before it could be killed in its middle: give it more than --minutes {options.minutes:g}")
    else:
        say(2, f"Killed in the middle, on purpose (SIGKILL). A new process resumes it from step {killed.resumes_at:,}")
        tell(f"The checkpoint of step {killed.shadow_step:,}, written before the kill, is set aside: it is the run that was never killed.")
        code = in_child(_resume, recipe, out, killed)
        proofs.forget_shadow(out)
        if code:
            return abs(code)
    say(3, "Bits per byte on files it has never seen, beside real compressors")
    show_evaluation(out)
    say(4, "The same model, whichever way it is computed")
    show_certificate(out / "model")
    say(5, "And if somebody had touched it?")
    for what, refused in proofs.tamper(out / "model"):
        tell(what)
        tell("  " + paint("refused", "red") + ": " + refused.replace("\n", f"\n{MARGIN}  "))
    say(6, "Search by meaning, with a small model that came ready-made")
    show_search()
    say(7, f"Done in {duration(time.monotonic() - started)}. Your model is an ordinary folder that other tools open too: {out / 'model'}")
    tell(f"look     {out / 'report.html'}")
    tell(f"talk     quire chat {out}")
    tell(f"write    quire generate {out} 'def parse_'")
    tell("your own quire train recipes/causal.toml --data.sources YOUR_FOLDER --train.minutes 10")
    return 0


def free_folder(wanted: Path) -> Path:
    """`wanted`, or wanted-2, wanted-3 ... when a run is there already: a second quickstart destroys nothing."""
    out, number = wanted, 1
    while out.exists() and any(out.iterdir()):
        number += 1
        out = wanted.with_name(f"{wanted.name}-{number}")
    return out


def say(number: int, title: str) -> None:
    print(paint(f"\n{number}  {title}", "bold"), flush=True)


def tell(line: str) -> None:
    print(MARGIN + line, flush=True)


def train_until_killed(recipe: TrainRecipe, out: Path) -> proofs.Killed | int:
    """Where the run was killed, or the exit code of a run that ended in another way (it has said why)."""
    code = in_child(_train, recipe, out)
    return proofs.set_shadow_aside(out) if code == -signal.SIGKILL else abs(code)


def in_child(work: Callable[..., None], *arguments: object) -> int:
    """Runs `work` in a process of its own; its exit code, negative for the signal that ended it."""
    child = multiprocessing.get_context("spawn").Process(target=_alone, args=(work, *arguments))
    child.start()
    try:
        child.join()
    except KeyboardInterrupt:
        child.join()  # it has heard the same Ctrl-C, and saves
        raise
    return child.exitcode or 0


def _alone(work: Callable[..., None], *arguments: object) -> None:
    try:
        work(*arguments)
    except QuireError as error:
        print(f"quire quickstart: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _train(recipe: TrainRecipe, out: Path) -> None:
    """The process that will not survive. It comes to its end only when it was stopped, and then says how to go on."""
    from ..train.run import train

    live = Live(recipe.log.prompts, MARGIN)
    result = train(recipe, observers=[live, proofs.KillsItself(out, recipe.train.save_every)], say=live.say, on_plan=live.plan)
    sys.exit(end(result, live, as_json=False))


def _resume(recipe: TrainRecipe, out: Path, killed: proofs.Killed) -> None:
    """The process that goes on, and compares the two checkpoints when it passes the step of the one that was set aside."""
    from ..train.run import resume

    live = Live(recipe.log.prompts, MARGIN)
    comparison = proofs.Compare(out, killed, live.note)
    result = resume(out, observers=[live, comparison], on_plan=live.expect)
    live.close()
    if result.model is None:
        sys.exit(end(result, live, as_json=False))
    document(result)
    if not comparison.equal:
        raise TrainingError(f"the resumed run did not come to the same bits; please report it with {out / 'environment.json'}")


def show_evaluation(out: Path) -> None:
    evaluation = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    rows = {"this model": evaluation["bits_per_byte"], **evaluation.get("compressors", {})}
    tell(f"{'':<12}{'each file alone':>16}{'as one stream':>16}")
    for name, figures in rows.items():
        tell(f"{name:<12}{figures['per_file']:>16.3f}{figures['one_stream']:>16.3f}")
    tell(f"{evaluation['held_out_bytes']:,} bytes of held-out text, corpus {evaluation['corpus_hash'][:16]}.")
    tell("The model has read other files of the same library before; the compressors start from nothing.")


def show_search() -> None:
    """A question to a part of the standard library; where the extra is not there, how to get it."""
    from .. import minilm

    if minilm.there():
        in_child(_search)
        tell(f"These were {len(SEARCHED)} modules; all of the library, read once and kept:  quire search {QUESTION!r}")
    else:
        tell(f"It is an extra: pip install 'quire[minilm]', and then, with no network:  quire search {QUESTION!r}")


def _search() -> None:
    import torch

    from .. import minilm
    from ..machine import threads
    from ..model import load
    from ..search import build_or_open

    torch.set_num_threads(min(torch.get_num_threads(), threads()))
    index = build_or_open(load(minilm.NAME), only=SEARCHED)
    tell(f"{QUESTION}, among {len(index):,} docstrings:")
    for found in index.search(QUESTION, 3):
        tell(f"  {found.score:.3f}  {paint(found.name, 'green')}  {paint(short(found.text, len(found.name) + 15), 'dim')}")


def show_certificate(model: Path) -> None:
    certificate = json.loads((model / "certificate.json").read_text(encoding="utf-8"))
    for check in certificate["checks"]:
        verdict = paint("equal", "green") if check["ok"] else paint("NOT EQUAL", "red")
        allowed = "bit for bit" if check["limit"] == 0 else f"allowed {check['limit']:.0e}"
        tell(f"{check['name']:<18}{check['dtype']:<6}largest difference {check['difference']:.1e}   {allowed:<14}{verdict}")
    tell(f"binding {certificate['binding'][:16]}")
