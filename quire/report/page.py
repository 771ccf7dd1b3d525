"""What holds a page together: escaping, embedded data, the shell with its style and script, and how figures are written.

Everything that a run wrote (names, samples, tokens, recipes) may be hostile, as it comes from other people's text. It reaches the page
through `escape` or through `embed` alone, and a content security policy in the page lets only the one script run whose hash it names and
lets nothing be fetched, so that a mistake here would still run nothing and tell nobody.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

# Control characters are shown as their pictures (U+2400 ...). Halves of surrogate pairs and what HTML does not allow become the replacement
# character, and so do direction overrides, which would let a sample rearrange the text around it.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_BROKEN = re.compile("[\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\x80-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: object) -> str:
    """Any text as characters that can stand in a page, each one visible."""
    return _BROKEN.sub("\ufffd", str(text)).translate(_PICTURES)


def escape(text: object) -> str:
    """Any text as HTML text or as the value of a quoted attribute."""
    return html.escape(clean(text), quote=True)


def embed(value: Any) -> str:
    """JSON that stays data inside a <script> element whatever strings it holds. Raises ValueError for NaN and infinities."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@dataclass(frozen=True)
class Part:
    """A section of a page. `data` goes to the script under the part's id; `wide` sections may use more than the text's width."""

    id: str
    title: str
    html: str
    data: Any = None


@dataclass(frozen=True)
class Absent:
    """A section that cannot be shown, and why, in words for the list at the end of the page."""

    title: str
    reason: str


@dataclass
class Page:
    title: str
    kind: str  # the small line over the title
    lede: str  # HTML
    facts: Sequence[tuple[str, str, str]] = ()  # (figure, unit or small print, what it is)
    warnings: Sequence[str] = ()
    parts: list[Part] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    foot: str = ""
    warned: str = "What is wrong with this run’s files"
    key: str = ""  # HTML that stays in sight: the legend of a comparison

    def add(self, part: Part | Absent) -> None:
        (self.parts if isinstance(part, Part) else self.absent).append(part)  # type: ignore[arg-type]


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def render(page: Page) -> str:
    """The whole document as one string: no other file, no host, readable without the script."""
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    data = embed({part.id: part.data for part in page.parts if part.data is not None})
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(page.title)} · {escape(page.kind)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n<body>\n"
        f"{_head(page)}<main>\n{''.join(_section(part) for part in page.parts)}{_absent(page.absent)}</main>\n"
        f'<footer>{page.foot}</footer>\n<div id="tip" role="status" hidden></div>\n'
        f'<script type="application/json" id="data">{data}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _head(page: Page) -> str:
    facts = "".join(
        f"<div><dt>{escape(what)}</dt><dd>{escape(figure)}<small>{escape(unit)}</small></dd></div>" for figure, unit, what in page.facts
    )
    warned = "".join(f"<li>{escape(warning)}</li>" for warning in page.warnings)
    links = "".join(f'<li><a href="#{part.id}">{escape(part.title)}</a></li>' for part in page.parts)
    return (
        f'<header><p class="kind">{escape(page.kind)}</p><h1>{escape(page.title)}</h1><p class="lede">{page.lede}</p>'
        + (f'<dl class="facts">{facts}</dl>' if facts else "")
        + (f'<div class="warn" role="note"><p>{escape(page.warned)}</p><ul>{warned}</ul></div>' if warned else "")
        + f'<nav aria-label="Parts of this page"><ol>{links}</ol></nav></header>\n{page.key}'
    )


def _section(part: Part) -> str:
    return f'<section id="{part.id}" aria-labelledby="h-{part.id}"><h2 id="h-{part.id}">{escape(part.title)}</h2>\n{part.html}</section>\n'


def _absent(absent: Sequence[Absent]) -> str:
    if not absent:
        return ""
    rows = "".join(f"<li><b>{escape(item.title)}</b>: {escape(item.reason)}</li>" for item in absent)
    return f'<section id="absent" aria-labelledby="h-absent"><h2 id="h-absent">Not in this report</h2><ul>{rows}</ul></section>\n'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = (), caption: str = "") -> str:
    """An HTML table of cells that are HTML already; columns in `numbers` are set flush right. The first cell of a row heads it."""

    def cell(tag: str, index: int, text: str, scope: str = "") -> str:
        flush = ' class="n"' if index in numbers else ""
        return f"<{tag}{scope}{flush}>{text}</{tag}>"

    top = "".join(cell("th", i, text, ' scope="col"') for i, text in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell("th", i, t, ' scope="row"') if i == 0 else cell("td", i, t) for i, t in enumerate(row)) + "</tr>"
        for row in rows
    )
    said = f"<caption>{caption}</caption>" if caption else ""
    return f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def visible(token: str) -> str:
    """A token as HTML with its line breaks and tabs made visible, and still doing their work."""
    return escape(token).replace("\r", "").replace("\t", '<i class="ws">→</i>\t').replace("\n", '<i class="ws">↵</i>\n')


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to count - 1, evenly spaced, with both ends; of one, the last."""
    if count <= most:
        return list(range(count))
    return [count - 1] if most == 1 else sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


def grouped(value: float) -> str:
    """1234567.0 -> '1,234,567'; 0.12345 -> '0.1235'."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:.4g}"


def compact(value: float) -> str:
    """1234567 -> '1.23 M', 9830000 -> '9.83 M'."""
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g} {unit}"
    return f"{value:.4g}"


def minutes(seconds: float) -> str:
    """'45 s', '5.0 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.1f} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min"
