"""merge and export, as they are typed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

import quire
from quire.adapt import LoRA, attach, attach_prefix, attach_prompt, save_adapter, save_prefix, save_prompt
from quire.binding import Contract, bound
from quire.binding.truncation import Truncation
from quire.cli.main import main
from quire.errors import ModelError
from quire.families import ModelFolder, heads
from tests.adapt.oracle import disturb
from tests.small import write_model


def printed(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    assert main([str(word) for word in words]) == code
    found = capsys.readouterr()
    return found.out, found.err


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A run as it is left: base/, run/adapter, run/model."""
    base = write_model(tmp_path / "base", "bert")
    opened = ModelFolder.open(base)
    opened = opened.with_head(heads.fields(opened, "row", ("no", "yes")))
    model = opened.build()
    attach(model, LoRA(2), opened)
    disturb(model)
    save_adapter(tmp_path / "run" / "adapter", model, opened, bound(base))
    return tmp_path


def test_merge_proves_what_it_made(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("merge", tuned / "base", tuned / "run" / "adapter")
    out, _ = printed(capsys, *words, tuned / "whole")
    assert "largest difference" in out and "the same model" in out and "NOT" not in out
    found, wanted = (quire.load(tuned / "whole"), quire.load(tuned / "base", adapter=tuned / "run" / "adapter"))
    assert found.classify(["def"])[0] == pytest.approx(wanted.classify(["def"])[0], abs=1e-5)
    said = json.loads(printed(capsys, *words, tuned / "narrow", "--dtype", "bf16", "--json")[0])
    assert said["ok"] and said["difference"] < 0.5 and said["certificate"]["ok"]
    _, error = printed(capsys, *words, tuned / "whole", code=2)
    assert "not an empty folder" in error
    _, error = printed(capsys, "merge", tuned / "base", tuned / "base", tuned / "new", code=2)
    assert "adapter_config.json" in error and not (tuned / "new").exists()


def test_a_dry_run_plans_with_the_adapter(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its head makes a verb possible, its training says how long a text may be, and a soft prompt takes positions."""
    base, adapter = tuned / "base", tuned / "run" / "adapter"
    replace(Contract.open(base), truncation=Truncation(12, "head-tail")).save(adapter)
    words = ("classify", base, "def " * 20, "--dry-run", "--json")
    assert "classify needs another model" in printed(capsys, *words, code=2)[1]
    for more, way in (((), "head-tail"), (("--long", "error"), "error")):
        facts = json.loads(printed(capsys, *words, "--adapter", adapter, *more, code=2 if way == "error" else 0)[0])
        assert (facts["context"], facts["long"], facts["too_long"]) == (12, way, ["the text"])
        assert facts["left_out"] == (facts["longest"] - 12 if way == "head-tail" else 0)
    _, told = printed(capsys, "classify", base, "def " * 20, "--adapter", adapter)
    assert f"{facts['longest'] - 12} tokens left out" in told
    shown, _ = printed(capsys, *words[:-1], "--adapter", adapter)
    assert f"cut (head-tail), {facts['longest'] - 12} tokens left out" in shown

    decoder = write_model(tuned / "decoder", "llama")
    opened = ModelFolder.open(decoder)
    model = opened.build()
    attach_prompt(model, 5, opened)
    save_prompt(tuned / "prompt", model, opened, bound(decoder))
    words = ("generate", decoder, "x", "--dry-run", "--json")
    found = [json.loads(printed(capsys, *words, *more)[0]) for more in ((), ("--adapter", tuned / "prompt"))]
    assert found[0]["context"] - found[1]["context"] == 5
    assert found[1]["context"] == quire.load(decoder, adapter=tuned / "prompt").config.context


def test_a_dry_run_refuses_an_adapter_of_another_base(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter, other = tuned / "run" / "adapter", tuned / "other"
    changed = quire.load(tuned / "base", dtype="fp32")
    changed.model.embed.weight.data.mul_(1.5)
    changed.save(other)
    for more in ((), ("--dry-run",)):
        _, error = printed(capsys, "classify", other, "def", "--adapter", adapter, *more, code=1)
        assert f"was trained on the base '{tuned / 'base'}'" in error and str(other) in error
    _, error = printed(capsys, "classify", tuned / "base", "def", "--adapter", tuned / "run", code=2)
    assert f"Did you mean {adapter}?" in error


def test_a_prefix_writes_one_answer_after_the_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No engine holds a prefix: the command line goes the way that Python goes."""
    base = write_model(tmp_path / "base", "llama")
    opened = ModelFolder.open(base)
    model = opened.build()
    attach_prefix(model, 3, opened)
    disturb(model)
    save_prefix(tmp_path / "prefix", model, opened, bound(base))
    wanted = quire.load(base, adapter=tmp_path / "prefix").generate(["def", "class"], max_tokens=6, temperature=0.0)
    words = ("generate", base, "--adapter", tmp_path / "prefix", "--max-tokens", 6, "--temperature", 0)
    for prompt, answer in zip(("def", "class"), wanted):
        assert printed(capsys, *words, prompt)[0].startswith(prompt + answer.text)
    printed(capsys, *words, "def", "class", "--out", tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [answer.text for answer in wanted]
    assert not list(tmp_path.glob("*.partial"))
    assert "one by one: no schema, regex" in printed(capsys, *words, "def", "--regex", "[a-z]+", code=2)[1]


def test_labels_take_nothing_of_what_made_vectors(tmp_path: Path) -> None:
    """An adapter of labels on a sentence encoder makes a model of labels: the base's modules for vectors were not trained with it."""
    SentenceTransformer(str(write_model(tmp_path / "bert", "bert")), device="cpu").save(str(tmp_path / "base"))
    opened = ModelFolder.open(tmp_path / "base")
    opened = opened.with_head(heads.fields(opened, "row", ("no", "yes")))
    model = opened.build()
    attach(model, LoRA(2), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened, bound(tmp_path / "base"))
    quire.load(tmp_path / "base", adapter=tmp_path / "adapter").save(tmp_path / "whole")
    assert (tmp_path / "base" / "modules.json").exists() and not (tmp_path / "whole" / "modules.json").exists()


def test_a_dry_run_counts_the_prefix_of_the_adapter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is what the verb then puts before a text, not the base's."""
    base = write_model(tmp_path / "t5", "t5", bound=False)
    opened = ModelFolder.open(base).with_head({"task_specific_params": {"summarization": {"prefix": "sum up: ", "max_length": 3}}})
    model = opened.build()
    attach(model, LoRA(2), opened)
    save_adapter(tmp_path / "adapter", model, opened, bound(base))
    words = ("summarize", base, "def", "--json")
    plain, planned = (json.loads(printed(capsys, *words, "--dry-run", *more)[0]) for more in ((), ("--adapter", tmp_path / "adapter")))
    answer = json.loads(printed(capsys, *words, "--adapter", tmp_path / "adapter")[0])
    assert planned["tokens"] == answer["prompt_tokens"] > plain["tokens"]


def test_an_adapter_for_another_verb_says_which_one_it_is_for(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, adapter = tuned / "base", tuned / "qa"
    opened = ModelFolder.open(base)
    opened = opened.with_head(heads.fields(opened, "span"))
    model = opened.build()
    attach(model, LoRA(2), opened)
    save_adapter(adapter, model, opened, bound(base))
    for verb, more in (("classify", ()), ("classify", ("--dry-run",)), ("tag", ())):
        _, error = printed(capsys, verb, base, "x", "--adapter", adapter, *more, code=2)
        assert f"{verb} needs another adapter: {adapter} was trained for question answering: use quire answer." in error
    _, error = printed(capsys, "answer", base, "x", "--context", "y", "--adapter", tuned / "run" / "adapter", code=2)
    assert "was trained for labels of texts: use quire classify." in error
    with pytest.raises(ModelError, match=rf"with the adapter {adapter} gives answers in a text \(answer\); this needs labels of texts"):
        quire.load(base, adapter=adapter).classify(["x"])

    other = write_model(tuned / "other", "llama")
    _, error = printed(capsys, "classify", other, "x", "--adapter", adapter, code=2)
    assert f"{adapter} was trained on '{base}', and its head does not fit {other}: " in error


def test_an_adapter_alone_is_no_model(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tuned / "run" / "adapter"
    _, error = printed(capsys, "export", adapter, tuned / "whole", code=2)
    assert f"{adapter} is an adapter, not a model. Give its base, with --adapter {adapter} (Python: adapter=)" in error
    assert f"quire merge BASE {adapter} OUT" in error and "has the model of both" not in error
    printed(capsys, "merge", tuned / "base", adapter, tuned / "run" / "model")
    with pytest.raises(ModelError, match=f"has the model of both: {tuned / 'run'}$"):
        quire.load(adapter)


def test_merge_of_a_run_alone_takes_the_base_of_its_recipe(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tuned / "run"
    _, error = printed(capsys, "merge", run, code=2)
    assert "quire merge BASE ADAPTER OUT, or quire merge RUN OUT" in error and f"given: {run}" in error
    _, error = printed(capsys, "merge", run, tuned / "whole", code=2)
    assert "names no base" in error and "quire merge BASE ADAPTER OUT" in error
    (run / "recipe.toml").write_text(f'[model]\nstart = "{tuned / "base"}"\n')
    out, _ = printed(capsys, "merge", run, tuned / "whole")
    assert "the same model" in out and "NOT" not in out and (tuned / "whole" / "config.json").is_file()


def test_export_a_model_and_an_adapter(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tuned / "run"
    printed(capsys, "merge", tuned / "base", run / "adapter", run / "model")
    out, _ = printed(capsys, "export", run, tuned / "whole")
    assert "the same model" in out and bound(tuned / "whole").weights_id == bound(run / "model").weights_id
    out, _ = printed(capsys, "export", run, tuned / "adapter", "--adapter")
    assert bound(tuned / "base").id[:12] in out
    files = {"adapter_config.json", "adapter_model.safetensors", "quire_adapter.json"}
    assert files <= {file.name for file in (tuned / "adapter").iterdir()}
    assert quire.load(tuned / "base", adapter=tuned / "adapter").labels == {0: "no", 1: "yes"}
    _, error = printed(capsys, "export", tuned / "base", tuned / "other", "--adapter", code=2)
    assert "Leave --adapter out" in error
    _, error = printed(capsys, "export", run, tuned / "other", "--adapter", "--dtype", "bf16", code=2)
    assert "--dtype is for models" in error and not (tuned / "other").exists()
    weights = run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    _, error = printed(capsys, "export", run, tuned / "other", "--adapter", code=1)
    assert "changed or exchanged" in error


def test_a_soft_prompt_stands_beside_its_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_model(tmp_path / "base", "llama")
    opened = ModelFolder.open(base)
    model = opened.build()
    attach_prompt(model, 3, opened, generator=torch.Generator().manual_seed(1))
    save_prompt(tmp_path / "run" / "adapter", model, opened, bound(base))
    words = ("generate", base, "def", "--max-tokens", 4, "--temperature", 0, "--json")
    plain, tuned = (json.loads(printed(capsys, *words, *more)[0]) for more in ((), ("--adapter", tmp_path / "run" / "adapter")))
    assert plain["ids"] != tuned["ids"] and plain["model"] != tuned["model"]
    _, error = printed(capsys, "generate", tmp_path / "run", "def", code=2)
    assert f"--adapter {tmp_path / 'run' / 'adapter'}" in error
    _, error = printed(capsys, "merge", base, tmp_path / "run" / "adapter", tmp_path / "whole", code=2)
    assert "Soft prompts and prefixes cannot be merged" in error and not (tmp_path / "whole").exists()
