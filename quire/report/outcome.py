"""What came out: the model's bits per byte beside real compressors, and the sentence that a report begins with."""

from __future__ import annotations

from .folder import Run, number
from .page import Absent, Part, compact, escape, grouped, minutes

STDLIB = "the source of the Python standard library"
HOW = {"per_file": "Each file alone", "one_stream": "All files as one stream"}


def figures(run: Run, how: str) -> dict[str, float]:
    """Bits a byte by name ("model", "gzip", ...), for `per_file` or `one_stream`; the ones that were measured."""
    found: dict[str, float] = {}
    sources = {"model": run.evaluation.get("bits_per_byte")}
    compressors = run.evaluation.get("compressors")
    sources |= compressors if isinstance(compressors, dict) else {}
    for name, both in sources.items():
        value = number(both.get(how)) if isinstance(both, dict) else number(both) if how == "per_file" else None
        if value is not None:
            found[str(name)] = value
    return found


def part(run: Run) -> Part | Absent:
    title = "Beside real compressors"
    groups = {how: figures(run, how) for how in HOW}
    if not any(len(group) > 1 for group in groups.values()):
        why = (
            "evaluation.json holds none of its figures."
            if run.evaluation
            else "evaluation.json was not written; the run has not reached its end."
        )
        return Absent(title, why)
    top = max(value for group in groups.values() for value in group.values())
    pictures = "".join(_bars(HOW[how], group, top) for how, group in groups.items() if group)
    facts = []
    size = number(run.evaluation.get("held_out_bytes"))
    if size:
        facts.append(f"{grouped(size)} bytes of held-out text")
    corpus = corpus_hash(run)
    if corpus:
        facts.append(f"corpus <code>{escape(corpus[:16])}</code>")
    html = (
        '<p class="say">Bits needed for each byte of text that the model has never seen: shorter is better. The compressors run at '
        f'their best level, containers included.</p><div class="grid2">{pictures}</div>'
        f'<p class="note">{"; ".join(facts)}{". " if facts else ""}'
        "The comparison is of prediction, not of file sizes: the model has read its training text and its own size is not counted; "
        "a compressor starts from nothing.</p>"
    )
    return Part("outcome", title, html)


def _bars(title: str, group: dict[str, float], top: float) -> str:
    rows = []
    for name, value in sorted(group.items(), key=lambda pair: pair[1]):
        own = ' class="own"' if name == "model" else ""
        rows.append(
            f'<tr{own}><th scope="row">{"this model" if name == "model" else escape(name)}</th>'
            f'<td><i style="width:{100 * value / top:.2f}%"></i></td><td class="n">{value:.3f}</td></tr>'
        )
    return (
        f'<figure class="bars"><figcaption><span class="title">{escape(title)}</span><span class="unit">bits a byte</span></figcaption>'
        f"<table><tbody>{''.join(rows)}</tbody></table></figure>"
    )


def actual_minutes(run: Run) -> float | None:
    """Of training up to the last step, its evaluations included. The status goes on to count what follows, up to the last evaluation."""
    seconds = number(run.steps[-1].get("seconds")) if run.steps else number(run.status.get("seconds"))
    return None if seconds is None else seconds / 60


def parameters(run: Run) -> float | None:
    return run.parameters if run.parameters is not None else number(run.plan.get("parameters"))


def tokens_seen(run: Run) -> float | None:
    return number(run.steps[-1].get("tokens")) if run.steps else None


def corpus_hash(run: Run) -> str:
    """Which text the figures are of: the held-out corpus, as hex."""
    return str(run.evaluation.get("corpus_hash") or run.held_out.get("corpus") or "")


def final_metric(run: Run) -> tuple[str, float] | None:
    """The figure to quote: the last evaluation's bits per byte file by file, else the best of the run."""
    value = figures(run, "per_file").get("model")
    if value is not None:
        return "bits_per_byte", value
    name = run.evaluation.get("metric")
    value = number(run.evaluation.get(name)) if isinstance(name, str) else None
    if value is not None:
        return str(name), value
    best = run.best()
    return None if best is None else (best[0], best[1])


def part_of(run: Run, *keys: str) -> object:
    """A value of the recipe by its path, None where there is none."""
    value: object = run.recipe
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def what(run: Run) -> str:
    """'A llama decoder of 834 k parameters': HTML."""
    asked = None if part_of(run, "model", "start") else part_of(run, "model", "family")  # a start model brings its own
    family = str(asked or run.config.get("model_type") or "model")
    kind = {"bert": "encoder", "t5": "encoder-decoder", "marian": "encoder-decoder", "llama": "decoder", "gpt2": "decoder"}.get(family, "")
    size = parameters(run)
    return f"A {escape(family)} {kind}".rstrip() + (
        f" of {compact(size)} parameters".replace(" k ", " thousand ").replace(" M ", " million ") if size else ""
    )


def sentence(run: Run) -> str:
    """What was trained and what came of it, in one sentence or two: HTML."""
    start = part_of(run, "model", "start")
    how = [f"trained on from <code>{escape(start)}</code>" if start else "trained from scratch"]
    sources = part_of(run, "data", "sources")
    if isinstance(sources, list) and sources:
        named = [STDLIB if source == "stdlib" else f"<code>{escape(source)}</code>" for source in sources[:3]]
        how.append(f"on {', '.join(named)}" + (" and more" if len(sources) > 3 else ""))
    spent = actual_minutes(run)
    if spent:
        how.append(f"for {minutes(60 * spent)}")
    seen = tokens_seen(run)
    if seen:
        how.append(f"over {compact(seen)} tokens".replace(" k ", " thousand ").replace(" M ", " million ").replace(" B ", " billion "))
    return f"{what(run)}, {' '.join(how)}{_result(run)}{state(run)}"


def _result(run: Run) -> str:
    final = final_metric(run)
    if final is None:
        return "."
    name, value = final
    if name != "bits_per_byte":
        return f"; held-out {escape(name.replace('_', ' '))} <strong>{value:.4g}</strong>."
    text = f", predicts held-out text at <strong>{value:.3f} bits per byte</strong>"
    others = {name: size for name, size in figures(run, "per_file").items() if name != "model"}
    if not others:
        return text + "."
    name, best = min(others.items(), key=lambda pair: pair[1])
    share = 100 * (1 - value / best)
    verdict = f"{share:.0f} % less than" if share >= 0.5 else f"{-share:.0f} % more than" if share <= -0.5 else "the same as"
    rank = f", the best of the {len(others)} compressors" if len(others) > 1 else ""
    return f"{text}. File by file, that is {verdict} the {best:.3f} of {escape(name)}{rank}."


def state(run: Run) -> str:
    """What a reader must know of a run that is not finished: HTML."""
    step, steps = number(run.status.get("step")), number(run.status.get("steps"))
    place = f" at step {grouped(step)} of {grouped(steps)}" if step is not None and steps else ""
    return {
        "running": f" The run is still going on{place}; these are its figures so far.",
        "interrupted": f" The run was interrupted{place}: its process is gone. <code>quire resume</code> continues it.",
        "stopped": f" The run was stopped{place}; <code>quire resume</code> continues it.",
        "failed": f" The run failed{place}; “What happened” says where.",
    }.get(run.state, "")
