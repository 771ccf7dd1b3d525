"""The same prompts completed again and again while the model learns, and the share of completions that Python's own parser accepts."""

from __future__ import annotations

from ..metrics.parses import parses
from .chart import Chart, Series, draw
from .folder import Row, Run, number
from .page import Absent, Part, escape, evenly

_FRAMES = 60  # moments shown; more are thinned evenly, the first and the last stay
_LONGEST = 4000  # characters of one sample on the page


def part(run: Run) -> Part | Absent:
    steps = sorted({int(row["step"]) for row in run.samples})
    if not steps:
        return Absent(
            "Samples over time", "samples.jsonl holds no sample: the recipe named no prompts, or the run stopped before the first."
        )
    shown = [steps[i] for i in evenly(len(steps), _FRAMES)]
    frames = "".join(_frame(step, [row for row in run.samples if int(row["step"]) == step]) for step in shown)
    chart, data = _share(run)
    left_out = f" {len(shown)} of {len(steps)} moments are shown, evenly spaced." if len(shown) < len(steps) else ""
    html = (
        f'<p class="say">One prompt, completed again and again as the model learns. The prompt is <b class="prompt">marked</b>; '
        f"everything after it is the model’s.{left_out}</p>"
        f'<div class="grid21"><div class="frames" data-frames="step">{frames}</div>{chart}</div>'
    )
    return Part("samples", "Samples over time", html, data)


def _share(run: Run) -> tuple[str, dict[str, object] | None]:
    """The accepted share at each step, averaged over the prompts that are Python."""
    by_step: dict[int, list[float]] = {}
    for row in run.samples:
        value = number(row.get("parses"))
        if value is not None:
            by_step.setdefault(int(row["step"]), []).append(100 * value)
    if len(by_step) < 2:
        return "", None
    steps = sorted(by_step)
    line = Series("accepted", steps, [sum(by_step[step]) / len(by_step[step]) for step in steps])
    note = "A sample counts when its whole lines are Python so far; an end cut off by the token budget is not held against it, and saying "
    note += "nothing does not count."
    html, data = draw(
        Chart("parses", "Samples that parse", "per cent", [line], height=170, from_zero=True, note=note, points=len(steps) < 40)
    )
    return html, {"parses": data}


def _frame(step: int, rows: list[Row]) -> str:
    return f'<article data-at="{step}"><h3>Step {step:,}</h3>{"".join(_sample(row) for row in rows)}</article>'


def _sample(row: Row) -> str:
    prompt, text = str(row.get("prompt") or ""), str(row["text"])
    completion = text[len(prompt) :] if prompt and text.startswith(prompt) else text
    cut = len(completion) > _LONGEST
    badge = ""
    if number(row.get("parses")) is not None:
        accepted = parses(completion, prompt)
        badge = f'<span class="badge {"yes" if accepted else "no"}">{"parses" if accepted else "does not parse"}</span>'
    more = f" [{len(completion) - _LONGEST} more characters]" if cut else ""
    wanted = row.get("wanted")
    beside = f"<p>Wanted: {escape(wanted[:_LONGEST])}</p>" if isinstance(wanted, str) else ""
    said = f'<pre><b class="prompt">{escape(prompt)}</b>{escape(completion[:_LONGEST])}{more}</pre>'
    return f'<div class="sample">{badge}{said}{beside}</div>'
