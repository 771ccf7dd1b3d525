"""A teacher beside a task: torch's own divergence, every kind of head, the same gradient in parts, runs that resume to the same bits."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import quire
from quire import recipe as recipes
from quire.binding import Contract
from quire.errors import CheckpointError, ModelError, RecipeError
from quire.families import FAMILIES
from quire.nn.batch import IGNORE, Batch
from quire.nn.config import Sizes
from quire.tasks.causal import Causal
from quire.tasks.denoise import Denoise
from quire.tasks.masked import Masked
from quire.tasks.tuning.classify import Classify
from quire.tasks.tuning.distil import Distil, divergence, layer_map
from quire.tasks.tuning.schemas import Labelled, Prompt, Question, Rewrite, Tagged
from quire.train.prepare import first_weights
from quire.train.recipe import DataPart, LogPart, ModelPart, OptimPart, TaskPart, TrainPart, TrainRecipe
from quire.train.run import resume, train
from tests.small import TEXTS, tokenizer, write_model
from tests.tasks.readers import write


def test_the_divergence_is_torchs():
    draw = torch.Generator().manual_seed(0)
    mine, theirs = (torch.randn(6, 11, generator=draw) * 3 for _ in range(2))
    wanted = F.kl_div(F.log_softmax(mine / 4, -1), F.softmax(theirs / 4, -1), reduction="batchmean") * 6 * 16
    assert torch.allclose(divergence(mine, theirs, 4.0), wanted, atol=1e-5)
    chances = [torch.distributions.Bernoulli(logits=logits / 4) for logits in (theirs, mine)]
    several = torch.distributions.kl_divergence(*chances).mean(-1).sum() * 16
    assert torch.allclose(divergence(mine, theirs, 4.0, several=True), several, atol=1e-5)


def test_layers_are_matched_by_depth():
    assert [layer_map(2, 4), layer_map(3, 12), layer_map(4, 4), layer_map(4, 2)] == [[1, 3], [3, 7, 11], [0, 1, 2, 3], [0, 0, 1, 1]]


def opened(tmp_path, family, name="model", **ways):
    return quire.load(write_model(tmp_path / name, family, **ways)).model


def tasks(task):
    words, draw = tokenizer(task), np.random.default_rng(0)
    made = {"causal": Causal, "masked": Masked, "denoise": Denoise}[task](words, 16)
    size = {"causal": 17, "masked": 14}.get(task, made.tokens_per_row)
    stream = np.array(words.encode("".join(TEXTS))[: 4 * size]).reshape(4, size)
    return made, made.batch(stream, draw)


@pytest.mark.parametrize("task, family", [("causal", "llama"), ("masked", "bert"), ("denoise", "t5")])
def test_every_task_on_text_has_a_teacher(tmp_path, task, family):
    """What is computed inside is what two forward passes and torch's divergence give; chunks change nothing."""
    student, teacher = opened(tmp_path, family).train(), opened(tmp_path, family, "teacher")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)
    inner, batch = tasks(task)
    made = Distil(inner, student, teacher, weight=0.5, hidden=2.0, temperature=3.0)
    terms, counts = made.terms(student, batch), made.counts(batch)
    assert list(terms) == list(counts) == [*inner.counts(batch), "kd", "hidden"] and {n: c for n, (_, c) in terms.items()} == counts
    (name,) = inner.counts(batch)
    assert torch.equal(terms[name][0], inner.terms(student, batch)[name][0]), "the task's own loss is what it was"
    places = batch.labels[name] != IGNORE
    logits, wanted = (model.head(model(batch)[places]) for model in (student, teacher))
    value = F.kl_div((logits / 3).log_softmax(-1), (wanted / 3).softmax(-1), reduction="sum") * 9 * 0.5
    assert torch.allclose(terms["kd"][0], value, rtol=1e-4) and terms["kd"][0] > 0 and counts["kd"] == int(places.sum())
    gradients = []
    for chunk in (0, 8):
        student.zero_grad()
        made.terms(student, batch, chunk)["kd"][0].backward()
        gradients.append({n: p.grad.clone() for n, p in student.named_parameters() if p.grad is not None})
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-5) for n in gradients[1]) and gradients[0]
    assert all(p.grad is None for p in teacher.parameters())


def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it(tmp_path):
    student, teacher = opened(tmp_path, "llama"), opened(tmp_path, "llama", "teacher")
    inner, batch = tasks("causal")
    terms = Distil(inner, student, teacher, hidden=1.0).terms(student, batch)
    assert terms["kd"][0].abs() < 1e-4 and terms["hidden"][0] == 0


def built(width, layers):
    """A plain encoder with its first weights."""
    words = tokenizer("masked")
    sizes = Sizes(vocab=words.vocab_size, width=width, layers=layers, heads=2, context=16, pad=words.pad)
    return first_weights(FAMILIES["bert"].build(FAMILIES["bert"].new(sizes)), seed=width)


def test_hidden_states_of_a_wider_and_deeper_teacher():
    """By hand: states behind the layers, through the projection, over kept tokens, a mean over channels and layers."""
    student, teacher = built(16, 2), built(24, 4)
    inner, batch = tasks("masked")
    batch.keep = torch.arange(16)[None].expand(4, 16) < torch.tensor([16, 9, 12, 16])[:, None]
    made = Distil(inner, student, teacher, weight=0.0, hidden=1.0)
    made.attach(student, 0)
    terms = made.terms(student, batch)
    found = {}
    for name, model in (("student", student), ("teacher", teacher)):
        states = []
        for block in model.encoder.layers:
            block.register_forward_hook(lambda module, args, out, states=states: states.append(out))
        model(batch)
        found[name] = states
    pairs = [(found["student"][0], found["teacher"][1]), (found["student"][1], found["teacher"][3])]
    wanted = sum((student.projection(mine) - theirs)[batch.keep].square().mean(-1).sum() for mine, theirs in pairs) / 2
    assert list(terms) == ["mlm", "hidden"] and terms["hidden"][1] == 53
    assert torch.allclose(terms["hidden"][0], wanted, rtol=1e-5)
    terms["hidden"][0].backward()
    assert student.projection.weight.grad is not None and student.projection.weight.shape == (24, 16)
    made.detach(student)
    assert "projection.weight" not in student.state_dict()


def labelled(count, kind):
    words = ["a fine day", "the lazy dog", "Where is the basin?", "a premise, an answer"]
    if kind == "number":
        return [Labelled(words[n % 4], number=n % 3 / 2, where=f"x:{n}") for n in range(count)]
    if kind == "several":
        return [Labelled(words[n % 4], ("a", "b") if n % 4 else ("c",), where=f"x:{n}") for n in range(count)]
    return [Labelled(words[n % 4], ("abc"[n % 3],), where=f"x:{n}") for n in range(count)]


@pytest.mark.parametrize("kind", ["single", "several", "number"])
def test_labels_of_texts(tmp_path, kind):
    rows, labels = labelled(6, kind), ["score"] if kind == "number" else ["a", "b", "c"]
    folder = write(tmp_path / "s", "SequenceClassification", labels=labels)
    student, teacher = quire.load(folder).model, quire.load(folder).model
    with torch.no_grad():
        teacher.head.classifier.weight.mul_(2)
    inner = Classify(Contract.open(folder), 64, rows)
    batch = inner.batch(inner.examples(rows))
    made = Distil(inner, student, teacher, temperature=2.0)
    terms = made.terms(student, batch)
    logits, wanted = (model.head(model(batch), batch.keep) for model in (student, teacher))
    value = {
        "single": F.kl_div((logits / 2).log_softmax(-1), (wanted / 2).softmax(-1), reduction="sum") * 4,
        "several": divergence(logits, wanted, 2.0, several=True),
        "number": F.mse_loss(logits, wanted, reduction="sum"),
    }[kind]
    assert torch.allclose(terms["kd"][0], value, rtol=1e-4) and made.counts(batch)["kd"] == 6


class Spans:
    """Stands for a task on spans or tokens: any loss of the model's own forward pass."""

    name, supervised, splittable, metric, better = "spans", True, True, "f1", "higher"

    def __init__(self, label):
        self.label = label

    def describe(self):
        return {}

    def counts(self, batch):
        return {self.label: len(batch)}

    def terms(self, model, batch, chunk=0):
        return {self.label: (model.head(model(batch), batch.keep).sum(), len(batch))}


@pytest.mark.parametrize("head", ["QuestionAnswering", "TokenClassification"])
def test_labels_of_tokens_and_places(tmp_path, head):
    """Padding neither begins nor ends an answer, and tokens without a label are not compared."""
    student, teacher = (quire.load(write(tmp_path / name, head)).model for name in "st")
    with torch.no_grad():
        teacher.head.classifier.weight.mul_(1.5)
    keep = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    tag = torch.tensor([[IGNORE, 1, 0, IGNORE, 1, IGNORE], [IGNORE, 0, 0, IGNORE, IGNORE, IGNORE]])
    batch = Batch(torch.arange(12).reshape(2, 6) + 5, {"tag": tag}, keep=keep)
    made = Distil(Spans("tag"), student, teacher, temperature=1.0)
    found = made.terms(student, batch)["kd"][0]
    logits, wanted = (model.head(model(batch), keep) for model in (student, teacher))
    if head == "TokenClassification":
        places, count = tag != IGNORE, 5
        value = F.kl_div(logits[places].log_softmax(-1), wanted[places].softmax(-1), reduction="sum")
    else:
        count = 4
        value = sum(
            F.kl_div(logits[row, :size, side].log_softmax(0), wanted[row, :size, side].softmax(0), reduction="sum")
            for row, size in ((0, 6), (1, 4))
            for side in (0, 1)
        )
    assert torch.allclose(found, value, rtol=1e-4) and made.counts(batch)["kd"] == count


@pytest.fixture
def tiny(tmp_path):
    """A student of width 16 with 1 layer, and a teacher of width 32 with 2."""
    teacher, draw = write_model(tmp_path / "teacher", "llama", context=64), random.Random(0)
    (tmp_path / "text").mkdir()
    for n in range(30):
        lines = [f"def {draw.choice('abc')}{k}(line):\n    return line.split('{draw.choice(',;.')}')\n" for k in range(8)]
        (tmp_path / "text" / f"{n}.py").write_text("".join(lines))

    def make(**changes):
        recipe = TrainRecipe(
            out=str(tmp_path / "run"),
            model=ModelPart(width=16, layers=1, heads=2, context=32, dropout=0.1, family="gpt2"),
            data=DataPart(sources=(str(tmp_path / "text"),), held_out=0.1),
            task=TaskPart(teacher=str(teacher), hidden_weight=0.5),
            optim=OptimPart(warmup=0.25),
            train=TrainPart(steps=6, batch=4, dtype="fp32", threads=1, compile="off", eval_every=3, save_every=2, eval_tokens=300),
            log=LogPart(sample_tokens=4, samples=1),
        )
        for key, value in changes.items():
            recipe = recipes.replace(recipe, key, value)
        return recipe

    return make


def test_a_run_with_a_teacher_resumes_to_the_same_bits(tiny, tmp_path):
    straight = train(tiny()).model
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "step"]
    assert len(steps) == 6 and {"loss_lm", "loss_kd", "loss_hidden"} <= steps[0].keys()
    assert steps[-1]["loss_hidden"] < steps[0]["loss_hidden"]
    other = tiny(out=str(tmp_path / "other"))
    assert train(other, stop_at=4).model is None
    resumed = resume(tmp_path / "other").model
    one, two = (load_file(place / "model.safetensors") for place in (straight, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any("projection" in name for name in one) and quire.load(resumed).config.width == 16
    places = [sorted((tmp_path / run / "checkpoints").glob("step-*"))[-1] / "weights.safetensors" for run in ("run", "other")]
    first, second = (load_file(place)["projection.weight"] for place in places)
    assert torch.equal(first, second) and first.shape == (32, 16)


def test_another_teacher_midway_is_refused(tiny, tmp_path):
    train(tiny(), stop_at=2)
    teacher = quire.load(tmp_path / "teacher")
    with torch.no_grad():
        teacher.model.embed.weight.add_(1)
    teacher.save(tmp_path / "changed")
    for file in (tmp_path / "changed").iterdir():
        (tmp_path / "teacher" / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match="is not the one that this run began with"):
        resume(tmp_path / "run")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"task.teacher": "", "task.hidden_weight": 0.0, "task.distil_weight": 2.0}, "task.distil_weight = 2.0 needs a teacher"),
        ({"task.distil_weight": 0.0, "task.hidden_weight": 0.0}, "one must be above 0 for the teacher to teach"),
        ({"train.compile": "on"}, "a compiled layer cannot be looked into"),
        ({"adapt.method": "prompt"}, "adapt.method = 'prompt' puts tokens before each row"),
        ({"task.name": "embed"}, "learns a teacher's scores from its rows"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tiny, changes, message):
    with pytest.raises(RecipeError, match=message):
        train(tiny(**changes))


def test_a_teacher_of_other_words_or_labels_is_refused(tiny, tmp_path):
    bert = write_model(tmp_path / "bert", "bert")
    with pytest.raises(ModelError, match=r"has another vocabulary than the student \(\d+ tokens, \w{12}; \d+ tokens"):
        train(tiny(**{"task.teacher": str(bert), "tokenizer.path": str(tmp_path / "teacher")}))
    short = write_model(tmp_path / "short", "llama", context=16)
    with pytest.raises(ModelError, match="reads 16 tokens, and rows have 32"):
        train(tiny(**{"task.teacher": str(short)}))
    with pytest.raises(ModelError, match="kind is encoder with a head over words, the student.s decoder with one"):
        Distil(tasks("causal")[0], opened(tmp_path, "llama"), quire.load(bert).model)
    two, three = (
        quire.load(write(tmp_path / str(len(names)), "SequenceClassification", labels=names)).model
        for names in (["a", "b"], ["a", "b", "c"])
    )
    with pytest.raises(ModelError, match="the teacher tells 3 labels apart and the student 2"):
        Distil(Spans("tag"), two, three)


ROWS = {
    "tag": [Tagged(("Angela", "met", "Barack", str(n)), ("B-PER", "O", "B-PER", "O")) for n in range(12)],
    "answer": [Question(f"Who came {n}?", "Angela met Barack in Berlin.", (("Barack", 11),)) for n in range(12)],
    "chat": [Prompt(f"question {n}: who came?", f" Angela and Barack {n}") for n in range(12)],
    "rewrite": [Rewrite(f"the quick brown fox {n}", f"a lazy dog {n}") for n in range(12)],
}
BASES = {"tag": "bert", "answer": "bert", "chat": "llama", "rewrite": "t5"}


@pytest.mark.parametrize("task", ROWS)
def test_tasks_on_rows_have_a_teacher(task, tuned, tmp_path):
    """A model tuned for one step teaches one of the same task: heads, labels and words fit."""
    base = write_model(tmp_path / "base", BASES[task], template=task == "chat", context=64)
    ways = {"train.steps": 1, "data.longest": 64, "data.held_out": 0.0}
    teacher = train(tuned(task, base, ROWS[task], **ways, out=str(tmp_path / "first"))).model
    result = train(tuned(task, base, ROWS[task], **ways, **{"task.teacher": str(teacher), "task.hidden_weight": 0.1}))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (step,) = (line for line in lines if line["kind"] == "step")
    assert result.model is not None and step["loss_kd"] >= 0 and step["loss_hidden"] >= 0


def test_a_teacher_of_other_label_names_is_refused(tuned, tmp_path):
    base = write_model(tmp_path / "base", "bert")
    ways = {"train.steps": 1, "data.held_out": 0.0}
    teacher = train(tuned("tag", base, ROWS["tag"], **ways, out=str(tmp_path / "first"))).model
    others = [Tagged(row.words, tuple(tag.replace("PER", "ORG") for tag in row.tags)) for row in ROWS["tag"]]
    with pytest.raises(
        ModelError, match="has the labels B-PER, I-PER, O; the student has B-ORG|has the labels B-PER, O; the student has B-ORG, O"
    ):
        train(tuned("tag", base, others, **ways, **{"task.teacher": str(teacher)}))
