"""generate, eval, verify and inspect, as they are typed: what they print, what they leave, how they end."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest

from quire.cli.main import main
from quire.cli.paint import safe
from tests.small import TASK, write_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("verbs")
    return {family: str(write_model(place / family, family, template=family == "llama")) for family in TASK}


def printed(capsys, *words, code=0):
    assert main([str(word) for word in words]) == code
    return capsys.readouterr()


# -- generate ------------------------------------------------------------------------------------------------------------------------


def test_generate_writes_the_prompt_and_goes_on(folders, capsys):
    whole = printed(capsys, "generate", folders["llama"], "def parse_", "--max-tokens", 8, "--seed", 1).out
    assert whole.startswith("def parse_") and len(whole) > len("def parse_\n")
    new = printed(capsys, "generate", folders["llama"], "def parse_", "--max-tokens", 8, "--seed", 1, "--only-new").out
    assert whole == "def parse_" + new


def test_generate_takes_several_prompts(folders, capsys):
    words = ("--max-tokens", 2, "--temperature", 0)
    found = printed(capsys, "generate", folders["llama"], "fox", "dog", *words, "--json").out.splitlines()
    assert [json.loads(row)["prompt"] for row in found] == ["fox", "dog"]
    shown = printed(capsys, "generate", folders["llama"], "fox", "dog", *words).out
    assert shown.startswith("fox") and "\n" + "─" * 24 + "\ndog" in shown


def test_generate_json_has_all_that_a_program_needs(folders, capsys):
    out = printed(capsys, "generate", folders["llama"], "fox", "--max-tokens", 4, "--temperature", 0, "--json", "--logprobs", 2).out
    row = json.loads(out)
    assert row["prompt"] == "fox" and len(row["ids"]) == len(row["logprobs"]) == 4 and row["finish_reason"] == "length"
    assert len(row["logprobs"][0]["top"]) == 2 and len(row["model"]) == 64 and row["seconds"] >= 0
    assert "logprobs" not in json.loads(printed(capsys, "generate", folders["t5"], "fox", "--max-tokens", 4, "--json").out)


def test_generate_reads_a_file_line_by_line_and_standard_input_whole(folders, capsys, tmp_path, monkeypatch):
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    rows = printed(capsys, "generate", folders["gpt2"], "--file", tmp_path / "prompts.txt", "--json", "--max-tokens", 2).out.splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == ["one", "two"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines"))
    assert json.loads(printed(capsys, "generate", folders["gpt2"], "--json", "--max-tokens", 2).out)["prompt"] == "two\nlines"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llama", "x", "--temperature", "-1"], "temperature is -1.0; allowed: 0 (greedy) to 100"),
        (["llama", "x", "--logprobs", "2"], "--logprobs are written with --json"),
        (["llama", "x", "--file", "y"], "give a prompt or --file, not both"),
        (["llama", "--file", "missing.txt"], "missing.txt"),
        (["bert", "x"], "is an encoder that fills in masked words; it can: fill, eval, next-sentence, embed, similar, cluster, search."),
        (["nowhere", "x"], "no model at"),
        (["llama", "é" * 60], "The prompt has"),
    ],
)
def test_generate_says_what_is_wrong_and_shows_nothing(folders, capsys, words, message):
    found = printed(capsys, "generate", folders.get(words[0], words[0]), *words[1:], code=2)
    assert message in found.err and found.out == ""


def test_what_a_model_writes_cannot_steer_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert safe("a\x1b[2Jb\x9bc\r\n\td\u00a0é👍🏽", Terminal()) == "a\ufffd[2Jb\ufffdc\ufffd\n\td\u00a0é👍🏽"
    assert safe("a\x1b[2J", io.StringIO()) == "a\x1b[2J"  # a file gets what was written


# -- eval ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "text").mkdir()
    for name, text in {"a.txt": "The quick brown fox. " * 30, "b.txt": "jumps over the lazy dog. " * 20, "empty.txt": ""}.items():
        (tmp_path / "text" / name).write_text(text)
    return tmp_path / "text"


def test_eval_puts_the_model_beside_compressors(folders, capsys, texts):
    out = printed(capsys, "eval", folders["llama"], texts).out
    assert all(word in out for word in ("this model", "gzip", "bzip2", "xz", "each alone", "one stream", "95 %", "left out: 1 empty"))
    facts = json.loads(printed(capsys, "eval", folders["llama"], texts, "--json").out)
    assert facts["documents"] == 2 and facts["bytes"] == 1130 and facts["left_out"] == {"empty": 1}
    figures = facts["bits_per_byte"]
    assert figures["interval"][0] <= figures["per_file"] <= figures["interval"][1]
    assert set(facts["compressors"]) == {"gzip", "bzip2", "xz"} and len(facts["corpus_hash"]) == 64


def test_the_figure_of_eval_is_the_score_of_the_documents(folders, capsys, tmp_path):
    import math

    import quire

    text = "def parse_line(line):\n"
    (tmp_path / "one.py").write_text(text)
    facts = json.loads(printed(capsys, "eval", folders["gpt2"], tmp_path / "one.py", "--json").out)
    model = quire.load(folders["gpt2"])
    words = model.contract.tokenizer
    import torch

    ids = [words.eos, *words.encode(text), words.eos]
    with torch.inference_mode():
        scores = model.model.head(model.model.decode(torch.tensor([ids])))[0].log_softmax(-1)
    nats = -sum(float(scores[place, token]) for place, token in enumerate(ids[1:]))
    assert facts["bits_per_byte"]["per_file"] == pytest.approx(nats / math.log(2) / len(text), rel=1e-5)
    assert facts["bits_per_byte"]["one_stream"] == pytest.approx(facts["bits_per_byte"]["per_file"], rel=1e-5)


def test_a_model_that_begins_texts_with_another_token_than_it_ends_them_with(folders, capsys, texts, tmp_path):
    """As LLaMA's own: <s> before, </s> behind. The token between documents is never scored."""
    shutil.copytree(folders["llama"], tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    settings["bos_token"] = "<|im_start|>"
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    raw = (tmp_path / "m" / "tokenizer.json").read_text().replace("\r", "")
    value = json.loads(raw)
    value["post_processor"]["single"][0]["SpecialToken"]["id"] = "<|im_start|>"
    value["post_processor"]["special_tokens"] = {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}}
    (tmp_path / "m" / "tokenizer.json").write_text(json.dumps(value))
    (tmp_path / "m" / "binding.json").unlink()
    facts = json.loads(printed(capsys, "eval", tmp_path / "m", texts, "--json").out)
    assert set(facts["bits_per_byte"]) == {"per_file", "interval"}
    assert "-" in printed(capsys, "eval", tmp_path / "m", texts).out


@pytest.mark.parametrize(("family", "task"), [("bert", "masked"), ("t5", "denoise")])
def test_eval_of_the_other_kinds_gives_their_own_figures(folders, capsys, texts, family, task):
    facts = json.loads(printed(capsys, "eval", folders[family], texts, "--json").out)
    assert facts["task"] == task and facts["figures"]["loss"] > 0
    assert task in printed(capsys, "eval", folders[family], texts).out


def test_eval_of_nothing_says_what_to_give(folders, capsys, tmp_path):
    assert "Say what to read: quire eval" in printed(capsys, "eval", folders["llama"], code=2).err
    (tmp_path / "void").mkdir()
    assert "there is no text in" in printed(capsys, "eval", folders["llama"], tmp_path / "void", code=2).err
    assert "is not there" in printed(capsys, "eval", folders["llama"], tmp_path / "missing", code=2).err


def test_eval_reads_no_more_than_it_may(folders, capsys, texts):
    assert json.loads(printed(capsys, "eval", folders["llama"], texts, "--json", "--limit", 100).out)["documents"] == 1


# -- verify --------------------------------------------------------------------------------------------------------------------------


def test_verify_prints_each_way_and_writes_the_certificate(folders, capsys, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    out = printed(capsys, "verify", folder).out
    assert all(way in out for way in ("every file", "plain attention", "cached", "lean step", "padded batch", "saved, reloaded"))
    assert "the same model whichever way it is computed" in out and "DIFFERENT" not in out
    assert json.loads((folder / "certificate.json").read_text())["ok"] is True
    assert json.loads(printed(capsys, "verify", folder, "--json").out)["ok"] is True


def test_verify_ends_with_1_when_a_way_differs(folders, capsys, tmp_path, monkeypatch):
    import quire.decode.step as step

    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    product = step._product
    monkeypatch.setattr(step, "_product", lambda linear, x, rest=None: product(linear, x * 1.01, rest))
    out = printed(capsys, "verify", folder, code=1).out
    assert "DIFFERENT" in out and "largest in row" in out and "NOT the same model" in out
    assert json.loads((folder / "certificate.json").read_text())["ok"] is False


def test_verify_ends_with_1_and_names_the_part_when_a_file_changed(folders, capsys, tmp_path):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("user", "User").replace("assistant", "Assistant"))
    found = printed(capsys, "verify", folder, code=1)
    assert "the chat template (chat_template.jinja) has other content" in found.err and "--rebind" in found.err
    assert "chat template" in json.loads(printed(capsys, "verify", folder, "--json", code=1).out)["error"]
    assert printed(capsys, "verify", folder, "--rebind").out.count("same") > 4
    printed(capsys, "verify", folder)


# -- inspect -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(TASK))
def test_inspect_tells_what_is_there(folders, capsys, family):
    facts = json.loads(printed(capsys, "inspect", folders[family], "--json").out)
    assert facts["family"] == family and sum(facts["parameters_by_part"].values()) == facts["parameters"]
    assert facts["binding"]["kept"] == "binding.json" and facts["memory"]["weights"] >= 4 * facts["parameters"] * 0.9
    out = printed(capsys, "inspect", folders[family]).out
    assert f"{facts['parameters']:,} parameters" in out and facts["binding"]["id"][:16] in out
    assert max(map(len, out.splitlines())) < 140


def test_inspect_shows_template_lineage_and_certificate(capsys, tmp_path):
    folder = write_model(tmp_path / "m", template=True, lineage={"task": "causal", "run": "runs/one"})
    out = printed(capsys, "inspect", folder).out
    assert "a turn ends with <|im_end|>" in out and "run: runs/one" in out and "quire verify writes one" in out
    printed(capsys, "verify", folder)
    assert "passed, 20" in printed(capsys, "inspect", folder).out
    printed(capsys, "inspect", folder, "--json")
    shutil.copy(folder / "certificate.json", write_model(tmp_path / "other") / "certificate.json")
    assert "of another model" in printed(capsys, "inspect", tmp_path / "other").out


def test_inspect_of_a_run_folder_and_of_nothing(folders, capsys, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "run" / "model")
    assert "run/model" in printed(capsys, "inspect", tmp_path / "run").out
    assert "no model at" in printed(capsys, "inspect", tmp_path / "void", code=2).err


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_inspect_shows_what_can_be_read_and_names_the_rest(folders, capsys, tmp_path, damage):
    folder = shutil.copytree(folders["llama"], tmp_path / "m")
    if damage == "missing":
        (folder / "tokenizer.json").unlink()
    else:
        (folder / "tokenizer.json").write_text("{")
    out = printed(capsys, "inspect", folder).out
    assert "parameters" in out and "shape" in out and "weights" in out and "tokenizer.json" in out.split("missing", 1)[1]
    facts = json.loads(printed(capsys, "inspect", folder, "--json").out)
    assert facts["uses"] == [] and "tokenizer.json" in facts["problem"] and facts["parameters"] > 0
    (folder / "config.json").write_text("{")
    assert "config.json" in printed(capsys, "inspect", folder, code=2).err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "stories.bin",
            "or a .gguf file; give that. Is it a model of llama2.c? Make a folder of it:",
        ),
        ("stories.bin", "quire convert stories.bin FOLDER --tokenizer TOKENIZER.bin"),
        ("quants", "quants holds no config.json, but a .gguf file (2 such files), which is a model itself. Give it: quants/a.gguf"),
        (
            "nobody/knows",
            "To fetch it from the hub: quire pull nobody/knows. Train one: quire quickstart",
        ),
        ("models/two", "Give a model folder or a run folder. Models near it: models/large. Train one: quire quickstart"),
        ("models/larg", "Give a model folder or a run folder. Did you mean 'models/large'?"),
    ],
)
def test_what_is_no_model_says_what_to_do(capsys, tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.bin").write_bytes(b"\0" * 64)
    (tmp_path / "quants").mkdir()
    for file in ("a.gguf", "b.gguf"):
        (tmp_path / "quants" / file).write_bytes(b"GGUF")
    (tmp_path / "models" / "large").mkdir(parents=True)
    (tmp_path / "models" / "large" / "config.json").write_text("{}")
    said = printed(capsys, "generate", name, "x", code=2).err
    assert message in said
    assert ("quire pull" in said) == (name == "nobody/knows")
