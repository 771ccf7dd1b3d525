"""What a model wrote for the same rows before its training and after it, beside what was wanted."""

from __future__ import annotations

from ..metrics.rouge import rouge
from .folder import Row, Run
from .mistakes import short
from .page import Absent, Part, escape
from .supervised import say

_PROMPTS = 12
_LONGEST = 1200  # characters of a text


def part(run: Run) -> Part | Absent | None:
    """None for a run that wrote no samples."""
    rows = [row for row in run.samples if isinstance(row.get("wanted"), str)]
    by_prompt: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["step"])):
        by_prompt.setdefault(str(row.get("prompt") or ""), []).append(row)
    if not by_prompt:
        return None
    first, last = min(int(row["step"]) for row in rows), max(int(row["step"]) for row in rows)
    before = "Before training" if first == 0 else f"At step {first:,}"
    after = f"After step {last:,}"
    shown = [(prompt, one) for prompt, one in by_prompt.items() if int(one[-1]["step"]) == last][:_PROMPTS]
    blocks = "".join(_block(prompt, one, (before, after)) for prompt, one in shown)
    return Part("written", "Before and after", f'<p class="say">{_said([one for _, one in shown])}</p>{blocks}')


def _said(found: list[list[Row]]) -> str:
    text = "Held-out rows, written by the model before it learned and after, beside what was wanted."
    both = [(one[0], one[-1]) for one in found if one[0] is not one[-1]]
    if not both:
        return text
    wanted = [str(after["wanted"]) for _, after in both]
    was, now = (sum(score.longest for score in rouge([str(pair[side]["text"]) for pair in both], wanted)) / len(both) for side in (0, 1))
    return f"{text} Words in common with it (ROUGE-L) went from {say('rougeL', was)} to {say('rougeL', now)} on these {len(both)}."


def _block(prompt: str, rows: list[Row], names: tuple[str, str]) -> str:
    before, after = rows[0], rows[-1]
    texts = [(names[0], before["text"], "")] if before is not after else []
    texts += [(names[1], after["text"], " after"), ("Wanted", after["wanted"], " wanted")]
    columns = "".join(
        f'<div class="{kind.strip()}"><h4>{escape(name)}</h4><pre>{short(text, _LONGEST) or "<i>nothing</i>"}</pre></div>'
        for name, text, kind in texts
    )
    return f'<figure class="written"><figcaption><pre class="prompt">{short(prompt.strip(), _LONGEST)}</pre></figcaption><div>{columns}</div></figure>'
