"""The parts of a report that are lists of facts: events, the tokenizer, the certificate, the environment, the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .folder import Run, number
from .page import Absent, Part, escape, grouped, table

_MOST_EVENTS = 40
_RECIPE_LINE = re.compile(r"^(\s*)([\w.\"-]+)(\s*=\s*)(.*)$")


def events(run: Run) -> Part | Absent:
    title = "What happened"
    if not run.events:
        return Absent(title, "metrics.jsonl holds no event.")
    kinds: dict[str, int] = {}
    for event in run.events:
        kinds[str(event.get("what"))] = kinds.get(str(event.get("what")), 0) + 1
    summary = ", ".join(f"{escape(kind)} " + ("once" if count == 1 else f"{count:,} times") for kind, count in kinds.items())
    # Saves come at every interval: the count says it all, so rows are for the rest and for the last save.
    last_save = next((event for event in reversed(run.events) if event.get("what") == "saved"), None)
    told = [event for event in run.events if event.get("what") != "saved" or event is last_save]
    shown = told[-_MOST_EVENTS:]
    rows = [
        (
            grouped(number(event.get("step")) or 0),
            f'<span class="what w-{_word(event.get("what"))}">{escape(event.get("what"))}</span>',
            escape(event.get("detail") or ""),
        )
        for event in shown
    ]
    more = f" The last {len(shown)} of {len(told)} are listed." if len(shown) < len(told) else ""
    saves = " Of the saves only the last is listed." if kinds.get("saved", 0) > 1 else ""
    html = f'<p class="say">{summary[:1].upper()}{summary[1:]}.{saves}{more}</p>' + table(("step", "what", "detail"), rows)
    return Part("events", title, html)


def _word(value: Any) -> str:
    return re.sub(r"[^a-z]", "", str(value).lower())[:16]


def text(run: Run) -> Part | Absent:
    """What was read and what was held out, from the shards' sidecars."""
    title = "The text"
    rows = []
    for name, shard in (("read in training", run.train), ("held out", run.held_out)):
        documents, size, tokens = (number(shard.get(key)) for key in ("documents", "text_bytes", "tokens"))
        if size is not None and tokens:
            corpus = f"<code>{escape(str(shard.get('corpus', ''))[:16])}</code>"
            rows.append((name, grouped(documents or 0), grouped(size), grouped(tokens), f"{size / tokens:.2f}", corpus))
    if not rows:
        return Absent(title, "the run folder holds no data/train.json.")
    html = table(("", "documents", "bytes", "tokens", "bytes a token", "corpus hash, first 16 digits"), rows, numbers=(1, 2, 3, 4))
    note = "Which side a document falls on is decided by the hash of its content, so one that occurs twice is never on both."
    dropped = [(escape(reason), grouped(count), f"<code>{escape(examples)}</code>") for reason, count, examples in left_out(run)]
    more = table(("left out", "documents", "such as"), dropped, numbers=(1,)) if dropped else ""
    return Part("text", title, f'{html}<p class="note">{note}</p>{more}')


def left_out(run: Run) -> list[tuple[str, int, str]]:
    """(reason, how many documents, examples) of what the sources held and training did not read, from `data.json`."""
    duplicates, skipped = run.data.get("duplicates"), run.data.get("skipped")
    rows = []
    for item in (duplicates, *(skipped if isinstance(skipped, list) else ())):
        count = number(item.get("count")) if isinstance(item, dict) else None
        if count:
            examples = item.get("examples")
            rows.append((str(item.get("reason", "")), int(count), ", ".join(map(str, examples[:2])) if isinstance(examples, list) else ""))
    return rows


def tokenizer(run: Run) -> Part | Absent:
    """`tokenizer_report.json`, which is `quire.text.report.Report.as_json()`: {"vocabulary", "total": {...}, "groups": [{...}, ...]}."""
    title = "The tokenizer"
    groups, vocabulary = run.tokenizer.get("groups"), number(run.tokenizer.get("vocabulary"))
    found = [row for row in groups if isinstance(row, dict)] if isinstance(groups, list) else []
    if not found:
        return Absent(title, "tokenizer_report.json was not written.")
    total = run.tokenizer.get("total")
    rows = [_tokenized(row, vocabulary) for row in (*found[:30], *([total] if isinstance(total, dict) and len(found) > 1 else []))]
    head = ("", "documents", "bytes", "tokens", "bytes a token", "tokens a word", "unknown", "vocabulary used")
    said = f'<p class="say">A vocabulary of {grouped(vocabulary)} tokens.</p>' if vocabulary else ""
    note = "The more bytes a token holds, the shorter a text becomes. A word is what white space separates. Unknown tokens are lost text."
    return Part("tokenizer", title, f'{said}{table(head, rows, numbers=range(1, 8))}<p class="note">{note}</p>')


def _tokenized(row: Mapping[str, Any], vocabulary: float | None) -> tuple[str, ...]:
    tokens, unknown, used = (number(row.get(key)) for key in ("tokens", "unknown", "used"))
    whole = (number(row.get(key)) for key in ("documents", "bytes", "tokens"))
    ratios = (number(row.get(key)) for key in ("bytes_per_token", "tokens_per_word"))
    plain = [*("–" if v is None else grouped(v) for v in whole), *("–" if v is None else f"{v:.2f}" for v in ratios)]
    lost = "–" if unknown is None or not tokens else "none" if not unknown else f"{100 * unknown / tokens:.2g} %"
    share = "–" if used is None or not vocabulary else f"{100 * used / vocabulary:.1f} %"
    return (f"<code>{escape(row.get('group', ''))}</code>", *plain, lost, share)


def certificate(run: Run) -> Part | Absent:
    """The checks of model/certificate.json (see certify.py) and the ids of model/binding.json."""
    title = "Is it the same model?"
    if not run.certificate and not run.binding:
        return Absent(title, "the model folder holds no certificate.json and no binding.json.")
    checks = run.certificate.get("checks")
    rows = [_check(check) for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
    html = (
        _verdict(run.certificate.get("ok"))
        if run.certificate
        else '<p class="say">No certificate was written; <code>quire verify</code> makes one.</p>'
    )
    if rows:
        html += table(("one forward, computed in another way", "numbers", "largest difference", "allowed", ""), rows, numbers=(2, 3))
    parts = (("binding", run.binding), ("contract", run.binding.get("contract")), ("weights", run.binding.get("weights")))
    ids = "".join(
        f"<div><dt>{name} id</dt><dd><code>{escape(part['id'])}</code></dd></div>"
        for name, part in parts
        if isinstance(part, dict) and "id" in part
    )
    return Part("certificate", title, html + (f'<dl class="list ids">{ids}</dl>' if ids else ""))


def _verdict(ok: object) -> str:
    if ok is True:
        said = '<span class="badge yes">certified</span> Whichever way it is computed, also after it was saved and opened again, the model '
        said += "gives the same answers."
    else:
        said = '<span class="badge no">not certified</span> Two ways of computing this model differ by more than is allowed, or the '
        said += "certificate does not say."
    return f'<p class="say">{said} Differences are of log-probabilities.</p>'


def _check(check: Mapping[str, Any]) -> tuple[str, ...]:
    ok = check.get("ok")
    badge = f'<span class="badge {"yes" if ok else "no"}">{"same" if ok else "differs"}</span>'
    return (
        escape(check.get("name", "?")),
        f"<code>{escape(check.get('dtype', ''))}</code>",
        _small(check.get("difference")),
        _small(check.get("limit")),
        badge,
    )


def _small(value: Any) -> str:
    known = number(value)
    return escape(value) if known is None else "0" if known == 0 else f"{known:.1e}".replace("e-0", "e-")


def environment(run: Run) -> Part | Absent:
    title = "Where it ran"
    flat = flatten(run.environment)
    if not flat:
        return Absent(title, "environment.json was not written.")
    items = "".join(
        f"<div><dt>{escape(named(key))}</dt><dd>{escape(value)}</dd></div>" for key, value in flat.items() if value not in (None, "")
    )
    return Part("environment", title, f'<dl class="list">{items}</dl>')


def named(key: str) -> str:
    """'packages.numpy' -> 'numpy', 'memory_mb' -> 'memory, MB'."""
    return key.removeprefix("packages.").removesuffix("_mb").replace("_", " ") + (", MB" if key.endswith("_mb") else "")


def recipe(run: Run) -> Part | Absent:
    title = "The recipe"
    if not run.recipe_text.strip():
        return Absent(title, "recipe.toml was not written.")
    lines = "\n".join(_toml_line(line) for line in run.recipe_text.strip("\n").splitlines())
    html = (
        '<p class="say">With every value written out, also those that were decided for you. '
        f'<code>quire train recipe.toml --out another-folder</code> does it again.</p><pre class="recipe">{lines}</pre>'
    )
    return Part("recipe", title, html)


def _toml_line(line: str) -> str:
    if line.lstrip().startswith("["):
        return f"<b>{escape(line)}</b>"
    if line.lstrip().startswith("#"):
        return f"<i>{escape(line)}</i>"
    match = _RECIPE_LINE.match(line)
    if not match:
        return escape(line)
    space, key, equals, value = match.groups()
    return f'{space}<span class="k">{escape(key)}</span>{equals}{escape(value)}'


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}, "c": [1, 2]} -> {"a.b": 1, "c": "1, 2"}: nested records as one list of facts."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            flat[f"{prefix}{key}"] = ", ".join(map(str, value))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
