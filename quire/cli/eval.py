"""How well does a model know your text? Bits per byte, beside gzip, bzip2 and xz on the same files.

quire eval runs/quickstart notes/ "src/**/*.py"

quire eval runs/quickstart            (on the text that its own run held out)

Smaller is better: it is the size to which the model would compress the text. `each alone` starts every document anew, `one stream` joins
them. An encoder or encoder-decoder is given its own task's figures instead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ..errors import DataError, RecipeError
from ..progress import count
from .lines import Flag, parse
from .paint import paint
from .uses import check

if TYPE_CHECKING:
    from ..data.shards import Shard
    from ..data.sources import Tally
    from ..model import Decoder, Encoder, Seq2Seq
    from ..tasks.score import Scored

_COMPRESSIBLE = 64 << 20  # bytes of text up to which the compressors run: xz takes about a second a MB


@dataclass(frozen=True)
class Eval:
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model folder or a run folder."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[TEXT ...]", help_behavior_hint="")] = ()
    """Files, folders or globs of text; 'stdlib'. None: what the run held out."""
    field: str = "text"
    """The field of JSONL, CSV and Parquet rows that holds the text."""
    limit: int = 0
    """Read about this many bytes of text at most, whole documents; 0: all."""
    json: Flag = False
    """The figures as JSON on standard output."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = "auto"
    verify: Flag = False
    """Hash every file of the model first."""


def run(argv: list[str]) -> int:
    options = parse(Eval, "eval", argv, __doc__)
    import torch

    from ..machine import threads
    from ..model import Decoder, load

    torch.set_num_threads(min(torch.get_num_threads(), threads()))
    model = load(options.model, options.dtype, options.device, options.verify)
    check("eval", model.config, model.contract, str(model.folder))
    with text(model, options) as (shard, texts, left_out):
        facts: dict[str, Any] = {
            "model": model.identity,
            "folder": str(model.folder),
            "sources": list(options.sources) or ["held out by the run"],
        }
        facts |= {"documents": shard.documents, "bytes": shard.text_bytes, "tokens": shard.token_count - 1, "corpus_hash": shard.corpus}
        facts |= {"left_out": left_out}
        facts |= decoder_figures(model, shard, texts, bool(options.sources)) if isinstance(model, Decoder) else task_figures(model, shard)
    print(json.dumps(facts, ensure_ascii=False) if options.json else "\n".join(lines(facts)))
    return 0


@contextmanager
def text(model: Decoder | Encoder | Seq2Seq, options: Eval) -> Iterator[tuple[Shard, list[str], dict[str, int]]]:
    """(tokens, the documents' texts, what was left out and why)."""
    from ..data import shards
    from ..data.sources import Document, Tally, read

    tokenizer = model.contract.tokenizer
    if not options.sources:
        folder = model.folder.parent / "data"
        if not (folder / "held_out.json").is_file():
            raise RecipeError(
                f"{model.folder} is not the model of a run that held text out. Say what to read: quire eval {options.model} FILES"
            )
        if options.limit:
            raise RecipeError("--limit goes with files to read; what the run held out is read whole")
        shard = shards.Shard.open(folder, "held_out", verify=options.verify)
        yield shard, [tokenizer.decode(shard.document(i).tolist()) for i in range(shard.documents)], {}
        return
    tally, documents, size = Tally(), list[Document](), 0
    for document in read(options.sources, options.field, tally=tally):
        documents.append(document)
        size += document.size
        if options.limit and size >= options.limit:
            break
    if not documents:
        raise DataError(f"there is no text in {', '.join(options.sources)}: {_words(tally) or 'nothing was found'}")
    with tempfile.TemporaryDirectory(prefix="quire-eval-") as place:
        shard = shards.write(place, "held_out", documents, tokenizer, separator(model))
        yield (
            shard,
            [document.text for document in documents],
            dict(tally.skipped) | ({"duplicate": tally.duplicates} if tally.duplicates else {}),
        )


def separator(model: Decoder | Encoder | Seq2Seq) -> int:
    """The token between documents: what ends a text, or what begins one."""
    tokenizer = model.contract.tokenizer
    found = next((token for token in (tokenizer.eos, tokenizer.sep, tokenizer.bos) if token is not None), None)
    if found is None:
        raise RecipeError(f"{model.folder}: its tokenizer has no token that ends or begins a text, so documents cannot be told apart")
    return found


def decoder_figures(model: Decoder, shard: Shard, texts: list[str], original: bool) -> dict[str, Any]:
    """Bits per byte of each document alone, with a 95 % interval over documents, and of all as one stream; and the compressors'.

    original: `texts` are what was read, not what the tokens decode to.
    """
    from ..metrics.compressors import compressors
    from ..metrics.interval import ratio_interval
    from ..tasks.score import byte_lengths, score_files, score_stream

    before, net, context = model.contract.before, model.model, model.config.context
    ends = not before or before == (shard.separator,)
    parts = score_files(net, shard, context) if ends else _without_ends(model, shard, before)
    parts = [part for part in parts if part.text_bytes]
    each = ratio_interval([part.bits_per_byte * part.text_bytes for part in parts], [part.text_bytes for part in parts])
    figures: dict[str, Any] = {"per_file": each.value}
    if len(parts) > 1:  # one document says nothing about another
        figures["interval"] = [each.low, each.high]
    if ends:  # elsewhere a joined stream would hold a token between documents that the model has never had to write
        figures["one_stream"] = score_stream(net, shard, context, byte_lengths(model.contract.tokenizer)).bits_per_byte
    facts: dict[str, Any] = {"bits_per_byte": figures, "loss": sum(p.nats for p in parts) / sum(p.tokens for p in parts)}
    words = model.contract.tokenizer
    exact = words.exact or (original and all(words.decode(shard.document(i).tolist()) == texts[i] for i in range(min(50, len(texts)))))
    if exact and shard.text_bytes <= _COMPRESSIBLE:
        facts["compressors"] = compressors(texts)
    facts["exact"] = exact
    return facts


def _without_ends(model: Decoder, shard: Shard, before: tuple[int, ...]) -> list[Scored]:
    """Documents of a model that begins them with another token than it ends them with: each behind its own beginning, ends not scored."""
    from ..tasks.score import Scored, score_tokens

    found = []
    for i in range(shard.documents):
        ids = shard.document(i)
        nats = score_tokens(model.model, ids, model.config.context, before=before[-1])
        found.append(Scored(float(nats.sum(dtype="float64")), len(ids), shard.document_bytes(i)))
    return found


def task_figures(model: Encoder | Seq2Seq, shard: Shard) -> dict[str, Any]:
    from ..model import Encoder
    from ..tasks.task import make
    from ..train.recipe import TaskPart

    name: Literal["masked", "denoise"] = "masked" if isinstance(model, Encoder) else "denoise"
    task = make(TaskPart(name=name), model.contract.tokenizer, model.config.context)
    return {"task": name, "metric": task.metric, "figures": task.evaluate(model.model, shard)}


def _words(tally: Tally) -> str:
    return ", ".join(f"{number} {reason}" for reason, number in tally.skipped.most_common())


# -- for the terminal ----------------------------------------------------------------------------------------------------------------


def lines(facts: dict[str, Any]) -> list[str]:
    each = facts["bytes"] / max(facts["tokens"], 1)
    many = "s" * (facts["documents"] != 1)
    size = f"{facts['documents']:,} document{many}, {count(facts['bytes'])}B, {facts['tokens']:,} tokens ({each:.2f} bytes each)"
    out = [
        f"{paint(facts['folder'], 'bold')}  on {', '.join(facts['sources'])}",
        paint(f"{size}, corpus {facts['corpus_hash'][:12]}", "dim"),
    ]
    if facts["left_out"]:
        out.append(paint("left out: " + ", ".join(f"{number} {reason}" for reason, number in facts["left_out"].items()), "yellow"))
    if "bits_per_byte" not in facts:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in facts["figures"].items())
        return [*out, "", f"{facts['task']}: {figures}"]
    mine = facts["bits_per_byte"]
    rows = {"this model": mine, **facts.get("compressors", {})}
    out += ["", paint(f"{'bits per byte':<14}{'each alone':>12}{'one stream':>12}", "dim")]
    for name, figure in sorted(rows.items(), key=lambda row: row[1]["per_file"]):
        stream = f"{figure['one_stream']:>12.3f}" if "one_stream" in figure else f"{'-':>12}"
        line = f"{name:<14}{figure['per_file']:>12.3f}{stream}"
        low, high = figure.get("interval", (None, None))
        out.append(
            (paint(line, "bold") if name == "this model" else line) + (paint(f"   95 % {low:.3f} to {high:.3f}", "dim") if low else "")
        )
    if not facts["exact"]:
        out.append(paint("this tokenizer does not keep every byte of the text, so the figure cannot stand beside a compressor's", "yellow"))
    return out
