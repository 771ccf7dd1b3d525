"""The plan that was made before the first step, beside what became of it."""

from __future__ import annotations

from statistics import median

from .folder import Run, number
from .outcome import actual_minutes, tokens_seen
from .page import Absent, Part, compact, escape, grouped, table
from .supervised import method, task, trained

_PARTS = ("weights", "gradients", "optimizer", "activations")


def part(run: Run) -> Part | Absent:
    title = "Plan and actual"
    if not run.plan:
        return Absent(title, "plan.json was not written.")
    rows = [_row(name, planned, actual, digits) for name, planned, actual, digits in _pairs(run) if planned is not None]
    if not rows:
        return Absent(title, "plan.json holds none of its figures.")
    html = f'<div class="plan">{table(("", "planned", "actual", "actual to planned"), rows, numbers=(1, 2))}{_choices(run)}</div>'
    return Part("plan", title, f'{_trained(run)}<div class="grid2">{html}<div>{_memory(run)}{_parameters(run)}</div></div>')


def _trained(run: Run) -> str:
    """What of the model a supervised run trained, as users of PEFT know it."""
    found = trained(run) if task(run) else None
    if found is None:
        return ""
    fresh = run.adapt.get("fresh")
    new = _names(fresh) if isinstance(fresh, list) else ""
    left = run.adapt.get("left_out")
    gone = f" Left out, the head of the model before: {_names(left)}." if isinstance(left, list) and left else ""
    return (
        f'<p class="say">{escape(method(run))[:1].upper()}{escape(method(run))[1:]}: {grouped(found[0])} of {grouped(found[1])} numbers '
        f"learned, {100 * found[0] / found[1]:.4g} %.{f' New, drawn from the seed: {new}.' if new else ''}{gone}</p>"
    )


def _names(listed: list[str]) -> str:
    return ", ".join(f"<code>{escape(str(name))}</code>" for name in listed)


def _choices(run: Run) -> str:
    said = [f"numbers in <code>{escape(run.plan['dtype'])}</code>"] if run.plan.get("dtype") else []
    if isinstance(run.plan.get("compile"), bool):
        said.append("compiled" if run.plan["compile"] else "not compiled")
    return f'<p class="note">Decided before the first step: {", ".join(said)}.</p>' if said else ""


def _pairs(run: Run) -> list[tuple[str, float | None, float | None, str]]:
    speeds = [value for row in run.steps if (value := number(row.get("tokens_per_s"))) is not None]
    memory = [value for row in run.steps if (value := number(row.get("memory_mb"))) is not None]
    planned_memory = run.plan.get("memory_mb")
    total = number(planned_memory.get("total")) if isinstance(planned_memory, dict) else number(planned_memory)
    step = number(run.steps[-1].get("step")) if run.steps else None
    return [
        ("Parameters", number(run.plan.get("parameters")), None if run.parameters is None else float(run.parameters), "whole"),
        ("Steps", number(run.plan.get("steps")), step, "whole"),
        ("Tokens", number(run.plan.get("tokens")), tokens_seen(run), "whole"),
        ("Minutes", number(run.plan.get("minutes")), actual_minutes(run), ""),
        ("Tokens a second (median)", number(run.plan.get("tokens_per_s")), median(speeds) if speeds else None, "whole"),
        ("Memory at its peak, MB", total, max(memory) if memory else None, "whole"),
    ]


def _row(name: str, planned: float | None, actual: float | None, digits: str) -> tuple[str, str, str, str]:
    def say(value: float | None) -> str:
        return "–" if value is None else f"{value:,.0f}" if digits else f"{value:.1f}"

    return name, say(planned), say(actual), _ratio(planned, actual)


def _ratio(planned: float | None, actual: float | None) -> str:
    """A bar of actual over planned; the line in the middle is 'as planned', the ends are half and twice."""
    if not planned or actual is None:
        return '<span class="dim">not measured</span>'
    ratio = actual / planned
    share = min(max((ratio - 0.5) / 1.0, 0.0), 1.0) if ratio < 1 else min(0.5 + (ratio - 1) / 2, 1.0)
    left, width = (share, 0.5 - share) if share < 0.5 else (0.5, share - 0.5)
    if abs(ratio - 1) < 0.005:
        said = "as planned"
    else:
        said = f"{100 * (ratio - 1):+.0f} %".replace("-", "−") if ratio < 10 else f"{ratio:.0f} times"
    return f'<span class="ratio"><i style="left:{100 * left:.1f}%;width:{100 * width:.1f}%"></i></span> {said}'


def _stack(title: str, unit: str, parts: dict[str, float], note: str) -> str:
    """One bar of its parts, each named with its figure below."""
    total = sum(parts.values()) or 1.0
    cells = "".join(
        f'<i class="p{i % 6}" style="width:{100 * v / total:.2f}%" title="{escape(k)}"></i>' for i, (k, v) in enumerate(parts.items())
    )
    key = "".join(
        f'<li><i class="p{i % 6}"></i>{escape(k.replace("_", " "))} <b>{compact(v) if v >= 10_000 else grouped(round(v, 1))}</b></li>'
        for i, (k, v) in enumerate(parts.items())
    )
    said = f'<p class="note">{note}</p>' if note else ""
    return (
        f'<figure class="stack"><figcaption><span class="title">{title}</span><span class="unit">{unit}</span></figcaption>'
        f'<div class="bar" aria-hidden="true">{cells}</div><ul class="key">{key}</ul>{said}</figure>'
    )


def _memory(run: Run) -> str:
    planned = run.plan.get("memory_mb")
    if not isinstance(planned, dict):
        return ""
    names = [name for name in (*_PARTS, *planned) if name in planned and name != "total"]
    parts = {name: value for name in dict.fromkeys(names) if (value := number(planned[name]))}
    total, whole = number(planned.get("total")), sum(parts.values())
    if total and total > 1.02 * whole:
        parts["the rest"] = total - whole  # the interpreter, torch and the data: what a process has before its first tensor
    return _stack("Planned memory by part", "MB", parts, "") if parts else ""


def _parameters(run: Run) -> str:
    planned = run.plan.get("parameters_by_part")
    found = planned.items() if isinstance(planned, dict) else ()
    parts = {str(name): value for name, raw in found if (value := number(raw))}
    return _stack("Parameters by part", "", parts, "") if parts else ""
