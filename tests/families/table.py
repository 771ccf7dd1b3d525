"""docs/families.md, made by computing: python -m tests.families.table

Every family in every config that its file names, against the reference implementation, in fp32 on tiny random models: the largest
difference of what comes out, whether a saved folder holds the same bits, and the largest difference between reading through the cache and
reading at once.
"""

from __future__ import annotations

import datetime
import tempfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from quire.families import FAMILIES, ModelFolder
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from quire.nn.transformer import Transformer
from tests.families.reference import CASES, Case, batch_for, our_outputs, save_theirs, their_class, their_model, their_outputs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"
HEAD = """# The families of models

What `quire.load` opens, by the `model_type` in a folder's `config.json`. This page is made by computing
(`python -m tests.families.table`, {date}, torch {torch}, transformers {transformers}): tiny random models in every config that a family's
file names (heads, options, odd shapes), in fp32, rows of unequal lengths with padding.

- **largest difference**: of logits, or of hidden states where there is no head, from the reference implementation; the tests allow 1e-4.
- **round trip**: opened, saved, and opened again by `transformers`: not one bit differs.
- **cache**: the largest difference between reading token by token and reading at once.

| `model_type` | kind | heads | configs | largest difference | round trip | cache |
|---|---|---|---|---|---|---|
"""
TAIL = """
Each is one file of data in `quire/families/`: [how to add one](adding-a-family.md). A field of `config.json` that changes what a model
computes and that its family does not understand is refused by name; so is a weight that is left over or missing.
"""


# What the reference's classes end with, and what that is.
HEADS = {
    "ForConditionalGeneration": "text",
    "ForCausalLM": "text",
    "LMHeadModel": "text",
    "MTModel": "text",
    "ForPreTraining": "words and pairs",
    "ForMaskedLM": "words",
    "ForNextSentencePrediction": "pairs",
    "ForSequenceClassification": "row labels",
    "ForTokenClassification": "token labels",
    "ForQuestionAnswering": "spans",
    "EncoderModel": "none (encoder alone)",
    "Model": "none",
}


@dataclass(frozen=True)
class Row:
    case: Case
    difference: float
    round_trip: bool
    cache: float | None


def measure(case: Case, folder: Path) -> Row:
    theirs = their_model(case)
    opened = ModelFolder.open(save_theirs(theirs, folder / "theirs"))
    ours = opened.build()
    largest = 0.0
    with torch.no_grad():
        for padded in (False, True):
            batch = batch_for(case, padded)
            wanted = their_outputs(case, theirs, batch)
            for name, got in our_outputs(ours, batch, wanted).items():
                a, b = got, wanted[name]
                if batch.keep is not None and a.ndim == 3:
                    a, b = a[batch.keep], b[batch.keep]
                assert torch.isfinite(a).all() and torch.isfinite(b).all()
                largest = max(largest, (a - b).abs().max().item())
        cache = _cached(ours, batch_for(case, False)) if ours.decoder is not None else None
    ModelFolder.save(folder / "ours", ours, opened.config)
    again = their_class(case).from_pretrained(folder / "ours").state_dict()
    equal = all(torch.equal(tensor, again[name]) for name, tensor in theirs.state_dict().items())
    return Row(case, largest, equal, cache)


def _cached(model: Transformer, batch: Batch) -> float:
    memory = None if batch.source is None else model.encode(batch.source.tokens)
    cache = Cache(model.config, len(batch), batch.tokens.shape[1])
    pieces = [model.decode(token, AttnContext(cache=cache), memory) for token in batch.tokens.split(1, 1)]
    return (torch.cat(pieces, 1) - model(batch)).abs().max().item()


def line(rows: list[Row]) -> str:
    case = rows[0].case
    names = ", ".join(f"`{name}`" for name in case.family.names)
    written = (row.case.config["architectures"][0] for row in rows)
    heads = ", ".join(dict.fromkeys(next(head for end, head in HEADS.items() if name.endswith(end)) for name in written))
    caches = [row.cache for row in rows if row.cache is not None]
    cache = f"{max(caches):.0e}" if caches else ""
    trip = "equal" if all(row.round_trip for row in rows) else "DIFFERS"
    worst = max(row.difference for row in rows)
    return f"| {names} | {case.family.kind} | {heads} | {len(rows)} | {worst:.0e} | {trip} | {cache} |"


def main() -> None:
    import transformers

    order = {"decoder": 0, "encoder": 1, "seq2seq": 2}
    cases = sorted(CASES, key=lambda case: (order[case.family.kind], case.family.names[0]))
    lines = []
    for name, group in groupby(cases, key=lambda case: case.family.names[0]):
        rows = []
        for case in group:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(case, Path(folder)))
        print(line(rows), flush=True)
        lines.append(line(rows))
        assert name in FAMILIES
    versions = {"date": datetime.date.today().isoformat(), "torch": torch.__version__, "transformers": transformers.__version__}
    PAGE.write_text(HEAD.format(**versions) + "\n".join(lines) + "\n" + TAIL, encoding="utf-8")


if __name__ == "__main__":
    main()
