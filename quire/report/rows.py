"""Rows as a model sees them, on one page: what the checks found, and every token coloured by whether it is learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import durable
from .page import Page, Part, compact, escape, render, table, visible

_OUTCOMES = {"ok": "yes", "told": "look", "allowed": "look", "refused": "stop"}
_TOKENS = 1500  # of a row


def write(path: Path | str, facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """facts and rows: what `quire check --json --show` prints."""
    durable.write_text(path, render(page(facts, rows)))


def page(facts: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Page:
    checks = facts["checks"]
    refused = [check for check in checks if check["outcome"] == "refused"]
    findings = [check for check in checks if check["outcome"] != "ok"]
    verdict = (
        f"<strong>A run would be refused:</strong> {len(refused)} of {len(checks)} checks say no."
        if refused
        else f"A run would begin: none of {len(checks)} checks refuses these rows."
    )
    figures = [(compact(facts["train"]), "", "rows to train on")] if "train" in facts else []
    figures += [(compact(facts[name]), "", what) for name, what in (("held_out", "held out"), ("test", "to test on")) if facts.get(name)]
    if "tokens" in facts:
        figures += [(compact(facts["tokens"]), "", "tokens"), (f"{facts['longest']:,}", "tokens", "longest row")]
    figures.append((f"{facts['seconds']:.1f}", "s", "to read and check"))
    found = Page(
        title=", ".join(Path(source).name for source in facts["sources"][:3]) + (" …" if len(facts["sources"]) > 3 else ""),
        kind="rows checked",
        lede=f"{verdict} {_read_by(facts)}",
        facts=figures,
        foot="Written by quire check.",
    )
    if findings:
        found.add(Part("found", "What was found", "".join(map(_finding, sorted(findings, key=lambda one: one["outcome"] != "refused")))))
    if rows:
        found.add(Part("rows", "Rows as the model sees them", _legend(rows) + "".join(map(_row, rows))))
    found.add(Part("checks", "Every check", _checks(checks)))
    return found


def _read_by(facts: dict[str, Any]) -> str:
    if not facts["model"]:
        return "The rows alone were looked at, without a model."
    return f"Read by <code>{escape(Path(facts['model']).name)}</code> for the task {escape(facts['task'])}."


def _badge(outcome: str) -> str:
    return f'<span class="badge {_OUTCOMES[outcome]}">{outcome}</span>'


def _finding(check: dict[str, Any]) -> str:
    lines = "".join(f"<li><code>{escape(row)}</code></li>" for row in check["rows"])
    more = check.get("count", 0) - len(check["rows"])
    rest = f"<li>and {more:,} more</li>" if check["rows"] and more > 0 else ""
    fix = f'<p class="fix">{escape(check["fix"])}</p>' if check["fix"] else ""
    says = escape(check["says"]).replace("\n", "<br>")
    return (
        f'<article class="finding {_OUTCOMES[check["outcome"]]}"><h3>{escape(check["check"])} {_badge(check["outcome"])}</h3><p>{says}</p>'
        + (f"<ul>{lines}{rest}</ul>" if lines else "")
        + f"{fix}</article>"
    )


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            escape(check["check"]),
            _badge(check["outcome"]),
            f"{check['count']:,}" if check.get("count") else "",
            f"{1000 * check['seconds']:,.0f}",
        )
        for check in checks
    ]
    return table(("check", "outcome", "found", "ms"), rows, numbers=(2, 3))


def _legend(rows: Sequence[dict[str, Any]]) -> str:
    tagged = any(token["label"] for row in rows for part in row["parts"] for token in part)
    return (
        '<ul class="key reads"><li><span class="t l">learned</span> the model is taught to write or to name it</li>'
        '<li><span class="t r">read</span> it stands before, and is not learned</li>'
        '<li><span class="t r x">special</span> a token that no text can spell</li>'
        + ("<li><small>TAG</small> what the token is labelled with</li>" if tagged else "")
        + "</ul>"
    )


def _row(row: dict[str, Any]) -> str:
    tokens = [token for part in row["parts"] for token in part]
    learned = sum(token["learned"] for token in tokens)
    cut = f" · {row['cut']:,} more were cut" if row["cut"] else ""
    answers = "" if learned or not row["answers"] else f"<output>answer <b>{escape(', '.join(row['answers'])[:200])}</b></output>"
    blocks = "".join(
        ('<p class="note">what is to be written</p>' if number else "") + f'<pre class="tokens reads">{_tokens(part)}</pre>'
        for number, part in enumerate(row["parts"])
    )
    told = f"{len(tokens):,} tokens · {f'{learned:,} learned' if learned else 'learned as a whole'}{cut}"
    head = f'<code>{escape(row["where"])}</code> <span class="unit">{told}</span>{answers}'
    return f'<figure class="row"><figcaption>{head}</figcaption>{blocks}</figure>'


def _tokens(part: Sequence[dict[str, Any]]) -> str:
    found = []
    for token in part[:_TOKENS]:
        kind = ("l" if token["learned"] else "r") + (" x" if token["special"] else "")
        label = f"<small>{escape(token['label'])}</small>" if token["label"] else ""
        found.append(f'<span class="t {kind}">{visible(token["text"])}</span>{label}')
    more = f'<span class="dim"> … {len(part) - _TOKENS:,} more</span>' if len(part) > _TOKENS else ""
    return "".join(found) + more
