"""What guessing ahead gives: tokens a second with and without, on copying and on other text, with models trained here.

    python -m benchmarks.guessing                     trains a decoder and a smaller draft first: about ten minutes on one core
    python -m benchmarks.guessing --models FOLDER     keeps the two there, uses them when they are there, goes on where training was cut off
    python -m benchmarks.guessing --training 0.01     a hundredth of the training: whether the script runs, not what guessing gives

The task: a few lines of Python source from the standard library, then the same with one of their names changed everywhere. A prompt holds
the first and the beginning of the second. Other text is source of files that were held out, without a repetition to copy, continued once
greedily and once by sampling, since small models loop when they are greedy and a loop is easily guessed.

A decoder learns to copy within minutes when three things help it: positions as slopes (MPT's ALiBi: a head sees the token before it from
the start; with rotary positions 1.4 million tokens gave no copying), a first course of words in no order that come again and again,
and stretches so short that a row holds several repetitions. How well it copies is measured and printed.

Models that train in minutes are so small that calls cost more than arithmetic. So the same two are also measured grown: made wider by
copies of their channels and deeper by zeros, they say what the small ones say, at the price of a model of that size. Answers of all ways
are compared; rounds are interleaved.
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
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

import quire
from benchmarks.paired import interleaved
from quire import machine
from quire.binding import Contract
from quire.engine.engine import Engine
from quire.families import FAMILIES, ModelFolder
from quire.nn.attention import AttnContext
from quire.nn.config import Sizes
from quire.nn.transformer import Transformer
from quire.text import training
from quire.text.tokenizer import Tokenizer
from quire.train.prepare import first_weights
from quire.train.recipe import DataPart, LogPart, ModelPart, OptimPart, TrainPart, TrainRecipe
from quire.train.run import resume, train

CONTEXT = 320
NAMES = re.compile(r"[a-z_][a-z0-9_]{3,}")
MARK = "###\n"


def stretches(files: list[Path], draw: random.Random, least: int, most: int) -> Iterator[str]:
    """Stretches of source, `least` to `most` lines long."""
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace").splitlines()
        text = [line for line in text if line.strip() and len(line) < 80 and line.isascii()]
        for at in range(0, len(text) - most, most):
            yield "\n".join(text[at : at + draw.randrange(least, most + 1)]) + "\n"


def edited(text: str, draw: random.Random) -> str:
    """The same with one of its names changed everywhere."""
    names = sorted({name for name in NAMES.findall(text) if not keyword.iskeyword(name)})
    if not names:
        return text
    name = draw.choice(names)
    return re.sub(rf"\b{name}\b", f"{name}_{draw.randrange(10)}", text)


def sources() -> tuple[list[Path], list[Path]]:
    """Files to train on, and those held out."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    random.Random(0).shuffle(files)
    return files[12:], files[:12]


def tasks() -> tuple[list[str], list[str]]:
    """Prompts from files that were held out: for copying, and to go on with."""
    draw, (_, held) = random.Random(1), sources()
    copying = [f"{text}{MARK}" + "".join(edited(text, draw).splitlines(True)[:1]) for text in stretches(held, draw, 5, 9)]
    other = list(stretches(held, draw, 5, 9))
    draw.shuffle(copying)
    draw.shuffle(other)
    return copying, other


def write(path: Path, rows: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")


def data(place: Path) -> Tokenizer:
    """Writes both courses: words of one token in no order, again and again; stretches of source and their copies, and plain source."""
    draw, (kept, _) = random.Random(2), sources()
    copies = []
    for text in stretches(kept, draw, 2, 5):
        once = edited(text, draw)
        copies.append(f"{text}{MARK}{once}" + (f"{MARK}{edited(once, draw)}" if draw.random() < 0.5 else ""))
    draw.shuffle(copies)
    tokenizer = training.train("bpe", copies[:6000], 1024)
    found = sorted({word for path in kept for word in re.findall(r"[a-z]{2,}", path.read_text(encoding="utf-8", errors="replace"))})
    words = [word for word in found if len(tokenizer.encode(f" {word}")) == 1]

    def again(words: list[str]) -> str:
        row = [draw.choice(words) for _ in range(draw.randrange(6, 28))]
        return " " + " ".join((row * 12)[: draw.randrange(48, 80)])

    plain = list(stretches(kept, draw, 5, 20))
    draw.shuffle(plain)
    few = draw.sample(words, min(64, len(words)))
    place.mkdir(parents=True, exist_ok=True)
    write(place / "words.jsonl", [*(again(few) for _ in range(12_000)), *(again(words) for _ in range(4_000))])
    rows = [*copies, *plain[:1500], *(again(words) for _ in range(2_500))]
    draw.shuffle(rows)
    write(place / "copies.jsonl", rows)
    return tokenizer


def finished(run: Path) -> bool:
    status = run / "status.json"
    return status.is_file() and json.loads(status.read_text(encoding="utf-8"))["state"] == "finished"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def trained(place: Path, name: str, width: int, layers: int, tokens: tuple[int, int]) -> Path:
    """The model folder of `name`: begun at random, then trained on both courses, on so many tokens each."""
    folder = place / name
    if finished(folder / "copies"):
        return folder / "copies" / "model"
    tokenizer = data(place)
    sizes = Sizes(vocab=tokenizer.vocab_size, width=width, layers=layers, heads=4, context=512, bos=tokenizer.bos, eos=tokenizer.eos)
    config = FAMILIES["mpt"].new(sizes)
    start = folder / "start"
    start.mkdir(parents=True, exist_ok=True)
    ModelFolder.save(start, first_weights(FAMILIES["mpt"].build(config), 0), config)
    Contract(tokenizer, None).save(start)
    for course, length, part in (("words", 128, tokens[0]), ("copies", 256, tokens[1])):
        if finished(run := folder / course):
            start = run / "model"
            continue
        if (run / "recipe.toml").is_file():
            resume(run, say=say)
            start = run / "model"
            continue
        train(
            TrainRecipe(
                out=str(run),
                model=ModelPart(start=str(start), context=length),
                data=DataPart(sources=(str(place / f"{course}.jsonl"),)),
                optim=OptimPart(name="muon", lr=3e-3, schedule="wsd", warmup=0.03, decay=0.3, final=0.0),
                train=TrainPart(tokens=part, batch=2048 // length, eval_tokens=4000, threads=torch.get_num_threads()),
                log=LogPart(samples=1, sample_tokens=8),
            ),
            say=say,
        )
        start = run / "model"
    return start


def copied(model: Transformer, contract: quire.Contract) -> float:
    """The share of a copy's tokens that are the likeliest after those before them, over stretches of held-out source, unchanged."""
    draw, right, all_ = random.Random(3), 0, 0
    for text in list(stretches(sources()[1], draw, 5, 9))[:60]:
        ids, behind = contract.prompt(f"{text}{MARK}{text}"), len(contract.prompt(f"{text}{MARK}"))
        if len(ids) > CONTEXT:
            continue
        places = torch.arange(len(ids))[None]
        with torch.inference_mode():
            logits = cast(Any, model.head)(model.decode(torch.tensor([ids]), AttnContext(positions=places)))[0]
        hits = logits[behind:-1].argmax(-1) == torch.tensor(ids[behind + 1 :])
        right, all_ = right + int(hits.sum()), all_ + len(hits)
    return right / max(1, all_)


def grown(small: Transformer, times: int, layers: int) -> Transformer:
    """A model `times` as wide and of so many layers that says what the small one says.

    Every channel, head and hidden unit is there `times` times, and what reads them divides by that (the last norm does it for the tied
    head): sums, and the norms' means and variances, stay. Layers beyond the small one's are zero and add nothing.
    """
    config = small.config
    assert config.decoder is not None and config.decoder.alibi is not None
    old = config.decoder.layers[0]
    attn = replace(old.attn, heads=old.attn.heads * times, kv_heads=old.attn.kv_heads * times)
    layer = replace(old, attn=attn, ffn=replace(cast(Any, old.ffn), hidden=cast(Any, old.ffn).hidden * times))
    stack = replace(config.decoder, layers=(layer,) * layers, alibi=config.decoder.alibi * times)
    big = Transformer(replace(config, width=config.width * times, decoder=stack))
    known = dict(small.named_parameters())
    with torch.no_grad():
        for name, parameter in big.named_parameters():
            if (part := known.get(name)) is None:
                parameter.fill_(1.0 if "norm" in name else 0.0)
            elif part.ndim == 1:
                parameter.copy_(part.repeat(times) / (times if name == "decoder.norm.weight" else 1))
            elif name == "embed.weight":
                parameter.copy_(part.repeat(1, times))
            else:
                parameter.copy_(part.repeat(times, times) / times)
    return big.to(torch.bfloat16).eval()


class Loaded:
    def __init__(self, model: Transformer, contract: quire.Contract) -> None:
        self.model, self.contract, self.identity, self.defaults = model, contract, "trained here", quire.Sampling()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="")
    parser.add_argument("--training", type=float, default=1.0, help="so much of the training; the figures want 1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--grow", nargs="*", default=["1x4", "4x8"], help="WIDTHxLAYERS")
    options = parser.parse_args([] if sys.argv[0].endswith("__main__.py") else None)
    torch.set_num_threads(machine.threads())
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(options.models or scratch)
        copying, other = tasks()
        large = trained(place, "large", 128, 4, (int(500_000 * options.training), int(1_200_000 * options.training)))
        small = trained(place, "draft", 64, 2, (int(750_000 * options.training), int(3_750_000 * options.training)))
        model, draft = quire.load(large), quire.load(small)
        where = f"{machine.environment()['processor']}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        print(f"{datetime.date.today()}, {where}")
        shares = [f"{name} {copied(one.model, one.contract):.0%}" for name, one in (("model", model), ("draft", draft))]
        print(f"of a copy's tokens come out right: {', '.join(shares)}")
        print(
            f"{options.prompts} prompts, one after the other, {options.tokens} new tokens each at most; medians of {options.rounds} rounds"
        )
        print(f"\n{'':<38}{'alone':>8}{'look-up':>9}{'times':>7}   middle half{'draft':>10}{'times':>7}   middle half")
        for growth in options.grow:
            times, layers = map(int, growth.split("x"))
            ahead = grown(draft.model, max(1, times // 2), 2)
            body = grown(model.model, times, layers)
            size = f"{body.config.parameters() / 1e6:.1f}M"
            greedy, drawn = (quire.Sampling(max_tokens=options.tokens, temperature=heat, seed=7) for heat in (0.0, 1.0))
            for what, prompts, how in (("copying", copying, greedy), ("other text", other, greedy), ("other text, sampled", other, drawn)):
                chosen = [ids for text in prompts if len(ids := model.contract.prompt(text)) + options.tokens <= CONTEXT]
                measure(f"{size}, {what}", body, ahead, model.contract, chosen[: options.prompts], how, options.rounds)


def measure(
    what: str,
    body: Transformer,
    ahead: Transformer,
    contract: quire.Contract,
    prompts: list[list[int]],
    sampling: quire.Sampling,
    rounds: int,
) -> None:
    loaded = Loaded(body, contract)
    guesses: dict[str, Any] = {"alone": None, "look-up": "lookup", "draft": ahead}
    engines = {name: Engine(loaded, guess=guess) for name, guess in guesses.items()}
    answers: dict[str, list[tuple[int, ...]]] = {}

    def writing(name: str) -> Callable[[], object]:
        def run() -> object:
            answers[name] = [engines[name].generate([prompt], sampling)[0].ids for prompt in prompts]
            return answers[name]

        return run

    found = interleaved({name: writing(name) for name in engines}, rounds)
    same = all(given == answers["alone"] for given in answers.values())
    tokens = sum(map(len, answers["alone"]))
    line = f"{what:<38}{tokens / found['alone'].seconds:>8,.0f}"
    for name in ("look-up", "draft"):
        timed = found[name]
        line += f"{tokens / timed.seconds:>9,.0f}{1 / timed.ratio:>7.2f}   {1 / timed.high:.2f} to {1 / timed.low:.2f}"
    print(line + ("" if same else "   ANSWERS DIFFER"), flush=True)


if __name__ == "__main__":
    main()
