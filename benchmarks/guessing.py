"""What guessing ahead gives: tokens a second with and without, on copying and on other text, with models trained here.

    python -m benchmarks.guessing                     trains a decoder and a smaller draft first: about three minutes on two cores
    python -m benchmarks.guessing --models FOLDER     keeps the two there, and uses them when they are there already

The task: a stretch of Python source from the standard library, then the same stretch with one of its names changed everywhere. A prompt
holds the first and the beginning of the second. Other text is source of files that were held out, without a repetition to copy.

Models that train in minutes are so small that calls cost more than arithmetic. So the same two are also measured grown: wider and deeper
by zeros, which say just what the small ones say, at the price of a model of that size. Answers of all ways are compared; rounds are
interleaved.
"""

from __future__ import annotations

import argparse
import datetime
import json
import keyword
import random
import re
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch

import quire
from benchmarks.paired import interleaved
from quire import machine
from quire.engine.engine import Engine
from quire.families import FAMILIES
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer
from quire.train.recipe import DataPart, LogPart, ModelPart, OptimPart, TokenizerPart, TrainPart, TrainRecipe
from quire.train.run import train

CONTEXT = 320
NAMES = re.compile(r"[a-z_][a-z0-9_]{3,}")


def stretches(files: list[Path], draw: random.Random, lines: int = 9) -> Iterator[str]:
    """Stretches of source, in no order."""
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        text = [line for line in text if line.strip() and len(line) < 80 and line.isascii()]
        for at in range(0, len(text) - lines, lines):
            yield "\n".join(text[at : at + draw.randrange(5, lines + 1)]) + "\n"


def edited(text: str, draw: random.Random) -> str:
    """The same with one of its names changed everywhere."""
    names = sorted({name for name in NAMES.findall(text) if not keyword.iskeyword(name)})
    if not names:
        return text
    name = draw.choice(names)
    return re.sub(rf"\b{name}\b", f"{name}_{draw.randrange(10)}", text)


def texts(place: Path) -> tuple[list[str], list[str]]:
    """Writes the training file; returns stretches of files that are not in it: for copying, and long ones to go on with."""
    draw = random.Random(0)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    draw.shuffle(files)
    kept, held = files[12:], files[:12]
    pairs = [f"{text}###\n{edited(text, draw)}" for text in stretches(kept, draw)]
    draw.shuffle(pairs)
    plain = list(stretches(kept[:60], draw, 30))
    place.mkdir(parents=True, exist_ok=True)
    rows = [*pairs, *plain]
    draw.shuffle(rows)
    (place / "copies.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")
    copying = []
    for text in stretches(held, draw):
        begin = edited(text, draw).split("\n", 2)
        copying.append(f"{text}###\n{begin[0]}\n{begin[1]}\n")
    other = ["\n".join(text.splitlines()[:6]) + "\n" for text in stretches(held, draw, 30)]
    draw.shuffle(copying), draw.shuffle(other)
    return copying, other


def trained(folder: Path, data: Path, width: int, layers: int, minutes: float, tokenizer: str = "") -> Path:
    if not (folder / "model" / "config.json").is_file():
        train(
            TrainRecipe(
                out=str(folder),
                model=ModelPart(width=width, layers=layers, heads=width // 32, kv_heads=max(1, width // 64), context=CONTEXT),
                tokenizer=TokenizerPart(path=tokenizer, vocab=1024),
                data=DataPart(sources=(str(data),)),
                optim=OptimPart(name="muon", lr=3e-3, schedule="wsd", warmup=0.03, final=0.0),
                train=TrainPart(minutes=minutes, batch=8, eval_tokens=8000),
                log=LogPart(samples=1, sample_tokens=16),
            ),
            say=lambda line: print(line, file=sys.stderr),
        )
    return folder / "model"


def grown(small: Transformer, times: int, layers: int) -> Transformer:
    """A model `times` as wide and of so many layers that says what the small one says: what is new is zero.

    RMS norms divide by the mean over more channels, so their weights shrink by sqrt(times); logits and everything else stay.
    """
    config = small.config
    assert config.decoder is not None
    first = config.decoder.layers[0]
    sizes = Sizes(
        vocab=config.vocab,
        width=config.width * times,
        layers=layers,
        heads=first.attn.heads * times,
        kv_heads=first.attn.kv_heads * times,
        hidden=cast(Any, first.ffn).hidden * times,
        context=config.context,
    )
    big = Transformer(FAMILIES["llama"].build(FAMILIES["llama"].new(sizes)))
    known = dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in big.named_parameters():
            parameter.zero_()
            if (old := known.get(name)) is None:
                if "norm" in name:
                    parameter.fill_(1.0)
                continue
            part = parameter[tuple(slice(0, size) for size in old.shape)]
            part.copy_(old)
            if "norm" in name:
                part.mul_(times**-0.5)
    return big.to(torch.bfloat16).eval()


class Loaded:
    def __init__(self, model: Transformer, contract: quire.Contract) -> None:
        self.model, self.contract, self.identity, self.defaults = model, contract, "trained here", quire.Sampling()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--minutes", type=float, default=1.9)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--grow", nargs="*", default=["1x4", "4x8"], help="WIDTHxLAYERS")
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    torch.set_num_threads(machine.threads())
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(options.models or scratch)
        copying, other = texts(place)
        large = trained(place / "large", place / "copies.jsonl", 128, 4, options.minutes)
        small = trained(place / "draft", place / "copies.jsonl", 64, 2, options.minutes / 3, str(large / "tokenizer.json"))
        model, draft = quire.load(large), quire.load(small)
        where = f"{machine.environment()['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        print(f"{datetime.date.today()}, {where}")
        print(
            f"{options.prompts} prompts, one after the other, {options.tokens} new tokens each at most; medians of {options.rounds} rounds"
        )
        print(f"\n{'':<38}{'alone':>8}{'look-up':>9}{'times':>7}   middle half{'draft':>10}{'times':>7}   middle half")
        for growth in options.grow:
            times, layers = map(int, growth.split("x"))
            ahead = grown(draft.model, max(1, times // 2), 2)
            body = grown(model.model, times, layers)
            size = f"{body.config.parameters() / 1e6:.1f}M"
            for what, prompts in (("copying", copying), ("other text", other)):
                chosen = [ids for text in prompts if len(ids := model.contract.prompt(text)) + options.tokens <= CONTEXT]
                measure(f"{size}, {what}", body, ahead, model.contract, chosen[: options.prompts], options)


def measure(what: str, body: Transformer, ahead: Transformer, contract: quire.Contract, prompts: list[list[int]], options: Any) -> None:
    loaded = Loaded(body, contract)
    guesses: dict[str, Any] = {"alone": None, "look-up": "lookup", "draft": ahead}
    engines = {name: Engine(loaded, guess=guess) for name, guess in guesses.items()}
    sampling = quire.Sampling(max_tokens=options.tokens, temperature=0.0)
    answers: dict[str, list[tuple[int, ...]]] = {}

    def writing(name: str) -> Callable[[], object]:
        def run() -> object:
            answers[name] = [engines[name].generate([prompt], sampling)[0].ids for prompt in prompts]
            return answers[name]

        return run

    found = interleaved({name: writing(name) for name in engines}, options.rounds)
    same = all(given == answers["alone"] for given in answers.values())
    tokens = sum(map(len, answers["alone"]))
    line = f"{what:<38}{tokens / found['alone'].seconds:>8,.0f}"
    for name in ("look-up", "draft"):
        timed = found[name]
        line += f"{tokens / timed.seconds:>9,.0f}{1 / timed.ratio:>7.2f}   {1 / timed.high:.2f} to {1 / timed.low:.2f}"
    print(line + ("" if same else "   ANSWERS DIFFER"), flush=True)


if __name__ == "__main__":
    main()
