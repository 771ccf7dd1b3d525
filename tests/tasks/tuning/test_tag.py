"""Tags of words: the first token of each learns, of the very ids that `quire tag` reads; windows; span figures against values by hand."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tokenizers import models, normalizers, pre_tokenizers, trainers

import quire
from quire.binding.contract import Contract
from quire.errors import DataError
from quire.families import ModelFolder
from quire.metrics.spans import from_tags
from quire.nn.batch import IGNORE
from quire.tasks.reading import pieces
from quire.tasks.spelled import divided, spell
from quire.tasks.tuning.schemas import Tagged
from quire.tasks.tuning.tag import Tag
from tests.small import write_model
from tests.tasks.readers import TEXTS, words, write

LABELS = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
ROWS = [
    Tagged(
        ("Angela", "Merkel", "met", "Barack", "Obama", "in", "Berlin"), ("B-PER", "I-PER", "O", "B-PER", "I-PER", "O", "B-LOC"), where="a:1"
    ),
    Tagged(("señor", "Núñez", "lives", "in", "São", "Paulo"), ("O", "B-PER", "O", "O", "B-LOC", "I-LOC"), where="a:2"),
    Tagged(("unbelievably", "it's", "日本語", "(x)", "Emoji👋🏽"), ("O", "O", "B-LOC", "O", "O"), where="a:3"),
]


def unigram() -> tokenizers.Tokenizer:
    """As XLM-R's: '▁' stands for a space, and is a token of its own where the vocabulary has no piece that begins with it."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator(
        [*TEXTS, "a b c d"] * 4, trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    return made


def folder_of(place: Path, kind: str, length: int = 64) -> Path:
    """kind: bert, roberta (byte-level, no space before the first word), prefix (with one), unigram."""
    place.mkdir(exist_ok=True)
    write(place, "TokenClassification", "bert" if kind == "bert" else "roberta", length, LABELS)
    if kind == "prefix":
        made = tokenizers.Tokenizer.from_str(words("roberta").to_str())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=True)
        made.save(str(place / "tokenizer.json"))
    if kind == "unigram":
        unigram().save(str(place / "tokenizer.json"))
    return place


def run_ner(tokenizer, row: Tagged) -> tuple[list[int], list[int]]:
    """transformers' documented alignment: the first token of each word, -100 for the others.

    One difference is meant in what is compared: a token that is only a space is not the first of its word here.
    """
    read = tokenizer(list(row.words), is_split_into_words=True)
    labels, before = [], None
    for word, token in zip(read.word_ids(), tokenizer.convert_ids_to_tokens(read["input_ids"])):
        labels.append(IGNORE if word is None or word == before else LABELS.index(row.tags[word]))
        before = word if token not in ("\u0120", "\u2581") else None
    return read["input_ids"], labels


@pytest.mark.parametrize("kind", ["bert", "prefix"])
def test_ids_and_labels_are_those_of_run_ner(tmp_path, kind):
    folder = folder_of(tmp_path / kind, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    task = Tag(Contract.open(folder), 64, ROWS)
    for example, row in zip(task.examples(ROWS), ROWS, strict=True):
        ids, labels = run_ner(theirs, row)
        assert example.ids.tolist() == ids and example.where == row.where
        spelled = spell(task.contract, row.words)
        more = [token + 1 for token, _ in spelled.spaces]
        assert np.delete(example.labels["tag"], more).tolist() == np.delete(labels, more).tolist()
        assert sum(label != IGNORE for label in np.delete(labels, more)) == len(row.words)


@pytest.mark.parametrize("kind", ["bert", "roberta", "prefix", "unigram"])
def test_what_is_learned_from_is_what_is_served(tmp_path, kind):
    folder = folder_of(tmp_path / kind, kind)
    contract = Contract.open(folder)
    task = Tag(contract, 64, ROWS)
    for example, row in zip(task.examples(ROWS), ROWS, strict=True):
        text = " ".join(row.words)
        assert example.ids.tolist() == [*contract.before, *pieces(contract, text).ids, *contract.after]
        spelled = spell(contract, row.words)
        assert [text[start:end] for start, end in spelled.places] == list(row.words)
        labels = example.labels["tag"][len(contract.before) : len(example.ids) - len(contract.after)]
        assert (labels[spelled.first] == [LABELS.index(tag) for tag in row.tags]).all()
        others = np.setdiff1d(np.arange(len(labels)), [*spelled.first, *(token for token, _ in spelled.spaces)])
        assert (labels[others] == IGNORE).all()
        for word, token in enumerate(spelled.first):
            start, end = pieces(contract, text).offsets[token]
            assert max(start, spelled.places[word, 0]) < min(end, spelled.places[word, 1])


def test_a_lone_space_goes_on_with_the_stretch_around_it(tmp_path):
    contract = Contract.open(folder_of(tmp_path / "u", "unigram"))
    row = Tagged(("x", "日本語", "日本語", "日本語"), ("O", "B-LOC", "I-LOC", "B-PER"))
    spelled = spell(contract, row.words)
    spaces = {word: token for token, word in spelled.spaces}
    assert {1, 2, 3} <= set(spaces), "this vocabulary has no piece with a space before 日"
    task = Tag(contract, 64, ROWS)
    labels = task.examples([row])[0].labels["tag"][1:]
    assert [task.labels[labels[spaces[word]]] for word in (1, 2, 3)] == ["O", "I-LOC", "O"]


@pytest.mark.parametrize("kind", ["bert", "roberta", "prefix", "unigram"])
def test_a_tag_that_is_learned_by_heart_is_found_by_the_verb(tmp_path, kind):
    folder = folder_of(tmp_path / kind, kind)
    model, contract = ModelFolder.open(folder).build(), Contract.open(folder)
    plain = ROWS[:2]  # words that the tokenizer does not divide at punctuation
    task = Tag(contract, 64, plain)
    examples, optimizer = task.examples(plain), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        batch = task.batch(examples)
        total, count = task.terms(model, batch)["tag"]
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    found = task.evaluate(model, plain)
    assert found.figures["f1"] == found.figures["accuracy"] == 1.0 and found.figures["loss"] < 0.05
    assert found.tables["served"] == {"rows": 2, "same": 2, "unlike": []}
    assert [one["tags"] for one in found.found] == [list(row.tags) for row in plain]


def test_the_loss_is_the_references_and_does_not_depend_on_the_division(tmp_path):
    folder = folder_of(tmp_path / "bert", "bert")
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    model, task = ModelFolder.open(folder).build(), Tag(Contract.open(folder), 64, ROWS)
    batch = task.batch(task.examples(ROWS))
    assert batch.keep is not None
    with torch.no_grad():
        total, count = task.terms(model, batch)["tag"]
        parts = [task.terms(model, part)["tag"] for part in batch.split(1)]
        wanted = theirs(batch.tokens, batch.keep.long(), labels=batch.labels["tag"]).loss
    assert count == task.counts(batch)["tag"] == sum(len(row.words) for row in ROWS)
    assert float(total) / count == pytest.approx(float(wanted), abs=1e-5)
    assert sum(float(part) for part, _ in parts) == pytest.approx(float(total), rel=1e-5) and sum(n for _, n in parts) == count
    assert task.evaluate(model, ROWS).figures["loss"] == pytest.approx(float(wanted), abs=1e-5)


def test_balanced_tags_weigh_alike(tmp_path):
    folder = folder_of(tmp_path / "bert", "bert")
    task = Tag(Contract.open(folder), 64, ROWS, balanced=True)
    counts = {label: sum(row.tags.count(label) for row in ROWS) for label in LABELS}
    words = sum(counts.values())
    assert task.weights == {label: words / (5 * count) for label, count in counts.items()}
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 4, IGNORE])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE)
    wanted = sum(float(loss) * task.weights[label] for loss, label in zip(each, LABELS))
    assert float(task._loss(logits, labels)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_each_word_of_a_long_row_is_learned_once_in_the_middle_of_a_window(tmp_path, kind):
    contract = Contract.open(folder_of(tmp_path / kind, kind))
    row = Tagged(ROWS[0].words * 12, ROWS[0].tags * 12, where="long:1")
    task, whole = Tag(contract, 24, ROWS, stride=8), Tag(contract, 4096, ROWS)
    examples = task.examples([row])
    assert len(examples) > 3 and all(len(example) <= 24 and example.cut == 0 for example in examples)
    learned = [label for example in examples for label in example.labels["tag"].tolist() if label != IGNORE]
    assert learned == [label for label in whole.examples([row])[0].labels["tag"].tolist() if label != IGNORE]
    assert kind != "bert" or learned == [task.numbers[tag] for tag in row.tags]
    for example in examples[1:-1]:
        places = np.flatnonzero(example.labels["tag"] != IGNORE)
        assert places[0] >= 1 + 4 and places[-1] < 23 - 4, "four tokens of an overlap of eight belong to each side"
    with pytest.raises(DataError, match=r"long:1 has \d+ tokens, and 22 are read at once here. Divide it"):
        Tag(contract, 24, ROWS, long="error").examples([row])


def test_a_long_row_is_measured_in_the_same_windows(tmp_path):
    folder = folder_of(tmp_path / "bert", "bert")
    model, contract = ModelFolder.open(folder).build(), Contract.open(folder)
    row = Tagged(ROWS[0].words * 12, ROWS[0].tags * 12, where="long:1")
    task = Tag(contract, 24, ROWS, stride=8)
    found = task.evaluate(model, [row])
    best = []
    for example in task.examples([row]):
        batch = task.batch([example])
        logits = model.head(model(batch), batch.keep)[0, : len(example)]
        best += logits[torch.from_numpy(example.labels["tag"]) != IGNORE].argmax(-1).tolist()
    assert found.found[0]["tags"] == [task.labels[number] for number in best]
    assert found.tables["served"]["rows"] == 0, "what one window does not hold is not compared"


# -- figures and tables by hand ----------------------------------------------------------------------------------------------------------


class Told(Tag):
    """Says what it is told, so that figures can be counted by hand."""

    def _tags(self, model, rows, spelled):
        return self.told, 0.5

    def _served(self, model, spelled, mine):
        return {}


def test_figures_and_errors_are_those_counted_by_hand(tmp_path):
    names = ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    rows = [
        Tagged(tuple("abcdef"), ("B-PER", "I-PER", "O", "B-LOC", "O", "B-PER"), where="r:1"),
        Tagged(tuple("ghij"), ("B-LOC", "I-LOC", "O", "O"), where="r:2"),
        Tagged(tuple("kl"), ("O", "O"), where="r:3"),
    ]
    task = Told(Contract.open(folder_of(tmp_path / "bert", "bert")), 64, [*rows, *ROWS])
    assert list(task.labels) == names
    # right: PER(a b). boundary: LOC g h found as LOC g. type: LOC d found as PER. missed: PER f. invented: LOC k.
    task.told = [["B-PER", "I-PER", "O", "B-PER", "O", "O"], ["I-LOC", "O", "O", "O"], ["B-LOC", "O"]]
    found = task.evaluate(None, rows)
    assert found.figures["precision"] == 1 / 4 and found.figures["recall"] == 1 / 4 and found.figures["f1"] == 2 / 8
    assert found.figures["accuracy"] == 7 / 12 and found.figures["loss"] == 0.5
    assert found.tables["span_errors"]["counts"] == {
        "missed": 1,
        "wrong type": 1,
        "wrong boundary": 1,
        "wrong type and boundary": 0,
        "invented": 1,
    }
    assert found.tables["span_errors"]["examples"]["wrong boundary"] == [
        {"where": "r:2", "wanted": ["LOC: g h"], "found": ["LOC: g"], "text": "g h i j"}
    ]
    by_label = {row["label"]: row for row in found.tables["labels"]}
    assert by_label["PER"] == {"label": "PER", "precision": 1 / 2, "recall": 1 / 2, "f1": 0.5, "found": 2, "wanted": 2}
    assert by_label["LOC"]["f1"] == 0.0 and by_label["LOC"]["found"] == 2
    assert found.intervals["f1"].value == 0.25 and found.intervals["f1"].n == 3


# -- what cannot be learned ---------------------------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_learned_are_named(tmp_path):
    contract = Contract.open(folder_of(tmp_path / "bert", "bert"))
    with pytest.raises(DataError, match="every word has the tag 'O'"):
        Tag(contract, 64, [Tagged(("x", "y"), ("O", "O"))])
    task = Tag(contract, 64, ROWS)
    with pytest.raises(DataError, match=r"1 rows have tags that are none of the 5 of the training rows: b:7: 'B-PRE' Did you mean 'B-PER'"):
        task.examples([Tagged(("x",), ("B-PRE",), where="b:7")])
    with pytest.raises(DataError, match="b:8: none of its 2 words becomes a token"):
        task.examples([Tagged(("\u0007", "\u0001"), ("O", "O"), where="b:8")])


def test_what_is_odd_is_told_once_for_each_row(tmp_path):
    task = Tag(Contract.open(folder_of(tmp_path / "bert", "bert")), 64, ROWS)
    rows = [Tagged(("x", "y"), ("O", "I-PER")), Tagged(("x", "\u0007"), ("O", "O")), Tagged(("x", "y"), ("B-PER", "I-PER"))]
    notes = [example.notes for example in task.examples(rows)]
    assert [len(note) for note in notes] == [1, 1, 0]
    assert notes[0][0].startswith("an I- tag continues nothing") and notes[1][0].startswith("a word becomes no token")
    assert from_tags(rows[0].tags) == [("PER", 1, 2)]


def test_plain_tags_are_measured_by_accuracy(tmp_path):
    contract = Contract.open(folder_of(tmp_path / "bert", "bert"))
    assert Tag(contract, 64, [Tagged(("a", "b"), ("NOUN", "VERB"))]).metric == "accuracy"
    assert Tag(contract, 64, ROWS).metric == "f1"
    described = json.dumps(Tag(contract, 64, ROWS).describe())
    assert '"labels": ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]' in described


# -- plain text -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, words",
    [
        ("Angela Merkel was born in Hamburg.", "Angela Merkel was born in Hamburg ."),
        ("“Hi,” said Ada (of the U.S.): Ada's dog…", "“ Hi , ” said Ada ( of the U.S. ) : Ada 's dog …"),
        ("J. R. Smith Jr. well-known—yes... wait!", "J. R. Smith Jr. well-known — yes ... wait !"),
        ("see http://x.org/a.b?c=1, @bob: #ny; &gt;x a.b@c.com :)", "see http://x.org/a.b?c=1 , @bob : #ny ; &gt; x a.b@c.com :)"),
        ("O'Neil's it 's C++ AT&T 50%, $5.3m, non-", "O'Neil 's it 's C++ AT&T 50% , $5.3m , non-"),
        ("東京 is in 日本。", "東 京 is in 日 本 。"),
        ("กำลังไป", "ก ำ ลั ง ไ ป"),
        pytest.param("#a" * 3000 + ".", "#a " * 3000 + ".", id="names without end"),
        (" \n", ""),
    ],
)
def test_plain_text_is_divided_as_the_corpora_are(text, words):
    assert [text[start:end] for start, end in divided(text)] == words.split()


def test_words_that_plain_text_does_not_show_are_not_looked_for(tmp_path):
    """'กำลัง' is one word of the rows; nothing in a text says where it ends."""
    contract = Contract.open(write_model(tmp_path, "bert", bound=False))
    rows = [Tagged(words, ("B-X", *["O"] * (len(words) - 1)), where="x:1") for words in (("Ada", "lives", "."), ("กำลัง", "ไป", "."))]
    served = [Tag(contract, 64, [row, row]).head()[2]["task_specific_params"] for row in rows]
    assert [table["token-classification"]["aggregation"] for table in served] == ["words", "first"]


def test_no_character_is_lost_between_words():
    draw = random.Random(0)
    for _ in range(2000):
        text, last = "".join(draw.choices("ab.'-@#&;s( )…—,:/hwtp3東\n", k=draw.randrange(14))), 0
        for start, end in divided(text):
            assert last <= start < end and not text[last:start].strip()
            last = end
        assert not text[last:].strip()


@pytest.mark.needs_data
def test_words_of_a_corpus_are_found_again(data_folder):
    lines = (data_folder / "ner/wnut17/test.conll").read_text(encoding="utf-8").splitlines()
    words = [line.split("\t")[0] for line in lines if line.strip()]
    places = set(divided(" ".join(words)))
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    found = sum((end - len(word) - 1, end - 1) in places for word, end in zip(words, ends))
    assert found >= 0.995 * len(words)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_verb_gives_words_the_tags_that_were_taught(tmp_path, kind):
    """Signs stand at words in the plain text and apart in the rows; no stretch begins or ends inside a word."""
    folder = write(tmp_path, "TokenClassification", kind=kind, length=64, labels=["B-PER", "I-PER", "O"])
    model = quire.load(folder)
    words = ("Angela", "Merkel", "'s", "unbelievably", "long", "rainforest", ",", "met", "Núñez", ".")
    text = "Angela Merkel's unbelievably long rainforest, met Núñez."
    task = Tag(model.contract, 64, [Tagged(words, ("B-PER", "I-PER", *["O"] * 8), where="x:1")])
    for seed in range(8):
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.model.head.parameters():
                weight.normal_(0, 1)
        (tags,) = [found["tags"] for found in task.evaluate(model.model, [Tagged(words, ("O",) * 10, where="x:1")]).found]
        wanted = [(label, " ".join(words[start:end])) for label, start, end in from_tags(tags)]
        (entities,) = model.tag([text], "words")
        assert [(one.label, one.text.replace("'s", " 's").replace(",", " ,").replace(".", " .").strip()) for one in entities] == wanted
        edges = {place for start, end in divided(text) for place in (start, end)}
        assert all({one.start, one.end} <= edges and text[one.start : one.end] == one.text for one in entities)
    assert model.tag([text]) == model.tag([text], "simple")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | task.head()[2]))
    assert quire.load(folder).tag([text]) == quire.load(folder).tag([text], "words")
