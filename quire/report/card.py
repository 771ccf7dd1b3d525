"""The model card: what a model is, what it was made from, what it can and cannot do, and how to open it (Mitchell et al. 2019).

`write` puts the same text into the run folder as MODEL_CARD.md and, where there is a model folder, into that as README.md, the name under
which model hubs show it. The licence is left to the user on purpose: nobody else can know what the training text allows. A card that
somebody has edited stays as it is: its last line holds the hash of what was written. All that came out of the run is set as code or
escaped, so that a hostile file name stays text.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .. import durable
from . import card_tuned
from .facts import flatten, left_out, named
from .folder import Run, number, read
from .outcome import HOW, STDLIB, actual_minutes, corpus_hash, figures, final_metric, parameters, part_of, tokens_seen
from .page import clean, compact, grouped, minutes
from .prose import code, plain, table
from .supervised import task

CARD = "MODEL_CARD.md"
ADAPTER = "adapter"
_SEAL = "\n<!-- Written by quire report. It is not written over once it was edited. sha256 of the text above: "
# model_type: (kind of model, what a hub calls its task, transformers' class)
_KINDS = {
    "llama": ("decoder", "text-generation", "AutoModelForCausalLM"),
    "gpt2": ("decoder", "text-generation", "AutoModelForCausalLM"),
    "bert": ("encoder", "fill-mask", "AutoModelForMaskedLM"),
    "t5": ("encoder-decoder", "text2text-generation", "AutoModelForSeq2SeqLM"),
}
_RECIPE_KEYS = (
    "task.name", "model.context", "tokenizer.kind", "tokenizer.vocab", "optim.name", "optim.lr", "optim.muon_lr", "optim.schedule",
    "optim.weight_decay", "train.batch", "train.steps", "train.dtype", "train.keep", "seed",
)  # fmt: skip


def write(run_folder: Path | str) -> Path:
    """Writes the card beside the run and into its model folder, where nobody has edited it; returns the path beside the run.

    Raises DataError when the folder is not a run, StorageError when it cannot be written.
    """
    run = read(run_folder)
    whole = markdown(run)
    for path in paths(run.path):
        text = card_tuned.adapter(run) + _end(run) if path.parent.name == ADAPTER and task(run) else whole
        if not edited(path):
            durable.write_text(path, text + _seal(text))
    return run.path / CARD


def paths(run_folder: Path) -> list[Path]:
    """Where a run's card stands: beside the run, and in the folders of its model and its adapter where there are such."""
    known = (("model", "config.json"), (ADAPTER, "adapter_config.json"))
    folders = [run_folder / name for name, file in known if (run_folder / name / file).is_file()]
    return [run_folder / CARD, *(folder / "README.md" for folder in folders)]


def edited(path: Path) -> bool:
    """Is there a card at `path` that is not, to the letter, what `write` left there?"""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    except (OSError, UnicodeDecodeError):
        return True
    place = text.rfind(_SEAL)
    return place < 0 or text[place:] != _seal(text[:place])


def _seal(text: str) -> str:
    return f"{_SEAL}{hashlib.sha256(text.encode('utf-8')).hexdigest()} -->\n"


def markdown(run: Run) -> str:
    if task(run):
        first, use = card_tuned.begin(run), card_tuned.use(run)
        middle = (card_tuned.data(run), _training(run), card_tuned.evaluation(run), card_tuned.limits(run))
    else:
        first, use = _front(run) + "\n" + _title(run), _load(run)
        middle = (_data(run), _training(run), _evaluation(run), _limits(run))
    parts = (first, _what(run), *middle, use, _same(run), _environment(run), _end(run))
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part)


def _family(run: Run) -> str:
    return str(run.config.get("model_type") or part_of(run, "model", "family") or "")


def _kind(run: Run) -> tuple[str, str, str]:
    return _KINDS.get(_family(run), ("model", "feature-extraction", "AutoModel"))


def _front(run: Run) -> str:
    """The YAML that hubs read. Values go through JSON, which YAML contains, so no name can break out of it."""
    tags = [tag for tag in ("quire", _family(run)) if tag]
    lines = ["---", "library_name: transformers", f"pipeline_tag: {_kind(run)[1]}", f"tags: {json.dumps(tags)}"]
    start = part_of(run, "model", "start")
    if start:
        lines.append(f"base_model: {json.dumps(clean(start))}")
    return "\n".join([*lines, "# license: choose one; see the last section", "---", ""])


def _title(run: Run) -> str:
    size = parameters(run)
    counted = f" of {compact(size)} parameters" if size else ""
    start = part_of(run, "model", "start")
    how = f"trained on from {code(start)}" if start else "trained from scratch"
    final = final_metric(run)
    result = f" Held-out {plain(final[0].replace('_', ' ')).replace(chr(92), '')}: **{final[1]:.3f}**." if final else ""
    state = (
        ""
        if run.state in ("finished", "unknown")
        else f"\n\n> This run is {plain(run.state)}; the figures are of the state it was in when this card was written."
    )
    return f"# {plain(run.name)}\n\nA {plain(_family(run))} {_kind(run)[0]}{counted}, {how} with Quire.{result}{state}\n"


def _what(run: Run) -> str:
    shown = ("architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
             "intermediate_size", "max_position_embeddings", "vocab_size",
             "n_embd", "n_layer", "n_head", "n_positions", "d_model", "num_layers", "d_ff")  # fmt: skip
    rows = [(key.replace("_", " "), code(value)) for key, value in flatten(run.config).items() if key in shown and value is not None]
    size = parameters(run)
    if size:
        rows.insert(0, ("parameters", code(grouped(size))))
    return "## What it is\n\n" + table(("", ""), rows) + "\n" if rows else ""


def _data(run: Run) -> str:
    lines = []
    sources = part_of(run, "data", "sources")
    if isinstance(sources, list) and sources:
        lines += [f"- {STDLIB} that ran the training" if source == "stdlib" else f"- {code(source)}" for source in sources]
    rows = []
    for name, shard in (("read in training", run.train), ("held out", run.held_out)):
        found = [number(shard.get(key)) for key in ("documents", "text_bytes", "tokens")]
        if any(value is not None for value in found):
            rows.append((name, *("–" if value is None else grouped(value) for value in found)))
    body = "\n".join(lines)
    if rows:
        body += "\n\n" + table(("", "documents", "bytes", "tokens"), rows)
    dropped = "; ".join(f"{count:,} {plain(reason)}" for reason, count, _ in left_out(run))
    if dropped:
        body += f"\n\nLeft out: {dropped}."
    if corpus_hash(run):
        body += f"\n\nCorpus hash: {code(corpus_hash(run))}. Documents are held out by the hash of their content, so none is on both sides."
    return f"## What it has read\n\n{body.strip()}\n" if body.strip() else ""


def _training(run: Run) -> str:
    flat = flatten(run.recipe)
    unused = set() if flat.get("optim.name") == "muon" else {"optim.muon_lr"}
    keys = card_tuned.KEYS if task(run) else _RECIPE_KEYS
    rows = [(code(key), code(flat[key])) for key in keys if flat.get(key) not in (None, "", "auto") and key not in unused]
    said = []
    seen, spent = tokens_seen(run), actual_minutes(run)
    if seen:
        said.append(f"{grouped(seen)} tokens")
    if spent:
        said.append(f"{minutes(60 * spent)} of training")
    skipped = sum(event.get("what") == "skipped" for event in run.events)
    resumed = sum(event.get("what") == "resumed" for event in run.events)
    said += [f"{count} {what}{'s' if count > 1 else ''}" for count, what in ((skipped, "skipped step"), (resumed, "resume")) if count]
    body = (", ".join(said) + ".\n\n" if said else "") + (
        table(("recipe", ""), rows) + "\n\nThe whole recipe is `recipe.toml` of the run." if rows else ""
    )
    return f"## How it was trained\n\n{body}\n" if body else ""


def _evaluation(run: Run) -> str:
    by_how = {how: figures(run, how) for how in HOW}
    names = list(dict.fromkeys(name for group in by_how.values() for name in group))
    if names:
        rows = [
            (
                "**this model**" if name == "model" else plain(name),
                *(f"{by_how[how][name]:.3f}" if name in by_how[how] else "–" for how in HOW),
            )
            for name in names
        ]
        table = table(("bits per byte", *(said.lower() for said in HOW.values())), rows)
        text = "\n\nHeld-out text that the model has never seen. The compressors run at their best level, containers included; they start "
        text += "from nothing, while the model has read its training text and its own size is not counted."
        return f"## Evaluation\n\n{table}{text}\n"
    final, best = final_metric(run), run.best()
    if final is None:
        return "## Evaluation\n\nNone yet: the run has written no evaluation.\n"
    rows = [(f"held-out {final[0].replace('_', ' ')}", f"{final[1]:.4g}")]
    if best and best[0] == final[0]:
        rows.append((f"best in the run, at step {best[2]:,}", f"{best[1]:.4g}"))
    return "## Evaluation\n\n" + table(("", ""), rows) + "\n"


def _limits(run: Run) -> str:
    size, context = parameters(run), part_of(run, "model", "context")
    lines = ["It knows what its training text shows and nothing else; anything it states may be wrong."]
    if size and size < 1e9:
        lines.append(f"With {compact(size)} parameters it learns the form of its text far better than its content.")
    if _kind(run)[0] == "decoder":
        lines.append("It continues text. It was not trained to follow instructions, to answer questions or to be safe to talk to.")
    lines.append("It can repeat passages of its training text word for word, including personal data and code under somebody’s licence.")
    if context:
        lines.append(f"It reads {grouped(number(context) or 0)} tokens at most." if number(context) else "")
    lines.append("It was evaluated on held-out text of the same kind as its training text only: not for bias, safety or other languages.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line) + "\n"


def _load(run: Run) -> str:
    kind, _, auto = _kind(run)
    prompts = part_of(run, "log", "prompts")
    prompt = json.dumps(clean(prompts[0]), ensure_ascii=False) if isinstance(prompts, list) and prompts else '"Once upon a time"'
    use = {
        "decoder": f"print(model.generate({prompt}).text)",
        "encoder": 'print(model.fill("The ___ is open."))',
        "encoder-decoder": 'print(model.fill("The ___ is open."))',
    }.get(kind, "print(model)")
    return f"""## How to open it

With Quire, which also checks that it is still the same model:

```python
import quire

model = quire.load("path/to/this/folder")
{use}
```

With `transformers`:

```python
from transformers import {auto}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
model = {auto}.from_pretrained("path/to/this/folder")
```
"""


def _same(run: Run) -> str:
    parts = (("binding", run.binding), ("contract", run.binding.get("contract")), ("weights", run.binding.get("weights")))
    rows = [(name, code(part["id"])) for name, part in parts if isinstance(part, dict) and part.get("id")]
    start = part_of(run, "model", "start")
    rows += [("trained on from", code(start))] if start else []
    rows += [
        (f"lineage: {plain(key)}", code(value))
        for key, value in flatten(run.binding.get("recorded", {}) if isinstance(run.binding.get("recorded"), dict) else {}).items()
    ][:20]
    ok = run.certificate.get("ok")
    said = (
        ""
        if ok is None
        else "The certificate says that every way of computing it agrees.\n\n"
        if ok is True
        else "The certificate names a difference that is too large.\n\n"
    )
    return f"## Identity and lineage\n\n{said}{table(('', ''), rows)}\n\n`quire verify` compares a copy with these ids.\n" if rows else ""


def _environment(run: Run) -> str:
    rows = [(plain(named(key)), code(value)) for key, value in flatten(run.environment).items() if value not in (None, "")]
    return "## Where it was trained\n\n" + table(("", ""), rows) + "\n" if rows else ""


def _end(run: Run) -> str:
    damaged = "".join(f"\n- {plain(problem)}" for problem in run.problems)
    return (
        "## Licence\n\nNot chosen: that is for whoever publishes this model, and depends on what the licences of the training text allow. "
        "Name it here and in the first lines of this file.\n" + (f"\n## Damaged files\n{damaged}\n" if damaged else "")
    )
