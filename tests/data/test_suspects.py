"""What is wrong with rows alone: each check on rows that have the fault, and on rows that may look so and have not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quire.data import overlap, suspects
from quire.data.ledger import CHECKS, Entry, Finding, Ledger
from quire.data.rows import RowSets, _divided, load
from quire.errors import DataError, RecipeError
from quire.tasks.tuning.schemas import Chat, Labelled, Prompt, Question, Row, Tagged
from quire.types import Message


def labelled(*pairs: tuple[str, str], name: str = "train.jsonl") -> list[Row]:
    return [Labelled(text, (label,), where=f"{name}:{number}") for number, (text, label) in enumerate(pairs, 1)]


def counted(**counts: int) -> list[Row]:
    """Rows with labels in these numbers; '_' in a name stands for a space at the end."""
    return labelled(*((f"{label} text {n}", label) for label, count in counts.items() for n in range(count)))


def said(finding: Finding | None) -> str:
    assert finding is not None and finding.refused
    return "\n".join([finding.says, *finding.rows, finding.fix])


def test_labels_in_two_spellings_are_named_with_their_counts_and_the_first_row() -> None:
    text = said(suspects.label_spellings(counted(positive=5, Positive=1, negative=5)))
    assert "1 label looks like another one in a second spelling" in text
    assert "'Positive' (1 row, the first train.jsonl:6) against 'positive' (5 rows)" in text
    assert "Write each label in one way." in text
    rows = labelled(("a", "New York"), ("b", "new_york"), ("c", "new  york "), ("d", "new york"), ("e", "Zürich"), ("f", "Zurich"))
    assert "4 labels look like others" in said(suspects.label_spellings(rows))


def test_a_slip_of_the_finger_is_told_from_another_word() -> None:
    assert "'effiel tower' (1 row" in said(suspects.label_spellings(counted(**{"eiffel tower": 40, "effiel tower": 1, "other": 9})))
    assert "'postive'" in said(suspects.label_spellings(counted(positive=40, postive=2)))


@pytest.mark.parametrize(
    "names",
    [("C", "C++"), ("read", "reads"), ("reader", "readers"), ("typical", "atypical"), ("class 1", "class 2"), ("grade 10", "grade 11")],
)
def test_labels_that_look_alike_by_right_are_let_through(names: tuple[str, str]) -> None:
    assert suspects.label_spellings(counted(**{names[0]: 60, names[1]: 2})) is None


def test_frequent_labels_one_letter_apart_are_let_through() -> None:
    assert suspects.label_spellings(counted(contract=40, contrast=30)) is None


def test_one_label_or_tag_tells_nothing_apart() -> None:
    assert "every training row has the label 'a' alone" in said(suspects.one_label(counted(a=3)))
    assert "the tag 'O' alone" in said(suspects.one_label([Tagged(("a", "b"), ("O", "O"), where="x:1")]))
    assert suspects.one_label([Labelled("t", (), where="x:1"), Labelled("u", ("a",), where="x:2")]) is None  # several may hold, or none


def test_labels_of_the_evaluation_must_be_trained() -> None:
    text = said(suspects.label_unknown(counted(good=3, bad=3), labelled(("x", "god"), name="test.csv")))
    assert "1 row of the evaluation have labels that no training row has: 'god'" in text
    assert "test.csv:1: 'god' Did you mean 'good'?" in text


def test_rows_with_labels_that_are_never_trained_may_be_left_out() -> None:
    def sets() -> RowSets:
        return RowSets(
            counted(good=9, bad=9), labelled(("x", "god"), ("y", "bad"), name="eval.csv"), labelled(("z", "good"), name="test.csv")
        )

    refusing = Ledger()
    suspects.look(refusing, sets(), given=True)
    with pytest.raises(DataError, match=r'to evaluate without these rows: data\.allow = \["label-unknown"\]'):
        refusing.refuse()
    ledger, found = Ledger(("label-unknown",)), sets()
    suspects.look(ledger, found, given=True)
    ledger.refuse()
    assert [row.where for row in found.held_out] == ["eval.csv:2"] and len(found.test) == 1 and found.json()["unknown"] == 1
    assert "left out: 1 row of the evaluation with labels that are never trained" in found.lines()
    assert any("eval.csv:1: 'god'" in line for line in ledger.said())
    with pytest.raises(DataError, match=r"every row of the evaluation from eval\.csv:1 on .* The training rows have: bad, good"):
        suspects.look(Ledger(("label-unknown",)), RowSets(counted(good=9, bad=9), labelled(("x", "god"), name="eval.csv"), []), given=True)


def test_a_row_with_one_unknown_tag_many_times_is_one_row() -> None:
    train = [Tagged(("a", "b"), ("O", "B-PER"), where="train:1")]
    held = [Tagged(("a", "b", "c"), ("B-LOC", "B-LOC", "B-ORG"), where=f"test:{n}") for n in range(4)]
    finding = suspects.label_unknown(train, held)
    assert finding is not None and finding.count == 4 == len(finding.rows) and len(set(finding.rows)) == 4
    assert "4 rows of the evaluation" in finding.says and finding.rows[0].startswith("test:0: 'B-LOC'") and "'B-ORG'" in finding.rows[0]
    assert not any(line.startswith("  and ") for line in Entry("label-unknown", "refused", 0.0, finding).lines())


def test_empty_and_equal_answers() -> None:
    rows = [Prompt(f"question {n}", "" if n == 3 else "an answer", where=f"p:{n}") for n in range(20)]
    assert "1 of 20 rows (5 %) have an empty answer." in (text := said(suspects.empty_answers(rows)))
    assert "p:3: 'question 3'" in text
    many = [Prompt(f"question {n}", "" if n == 3 else f"answer {n}", where=f"p:{n}") for n in range(200)]
    told = suspects.empty_answers(many)
    assert told is not None and not told.refused
    assert "all 20 training rows have the answer 'yes'" in said(suspects.same_answer([Prompt(str(n), "yes", where="p") for n in range(20)]))


def test_contradictions_are_told_and_refused_above_a_tenth() -> None:
    rows = [*labelled(("the same", "a"), ("the same", "b")), *counted(a=100)]
    told = suspects.contradictions(rows)
    assert told is not None and not told.refused and told.rows == ("'the same': 'a' in train.jsonl:1, 'b' in train.jsonl:2",)
    assert "read like another row and answer otherwise" in said(suspects.contradictions(rows[:4]))
    assert suspects.contradictions([Prompt("continue", one, where="p") for one in "ab"]) is None  # more than one is right


def test_a_row_of_the_test_set_among_the_training_rows() -> None:
    train = counted(a=20, b=20)
    held = labelled(("a film that nobody needs to see", "a"), name="test.jsonl")
    train += labelled(("a film that nobody needs to see", "a"), name="more.jsonl")
    text = said(suspects.leaks(train, held))
    assert "1 of 1 rows (100 %) of the evaluation are among the training rows" in text
    assert "test.jsonl:1 is more.jsonl:1: 'a film that nobody needs to see'" in text and 'data.overlap = "drop"' in text


def test_short_texts_stand_on_both_sides_by_chance() -> None:
    held = labelled(("no", "a"), *((f"a longer text of the test set, {n}", "b") for n in range(200)), name="test.jsonl")
    found = suspects.leaks(labelled(("no", "a"), ("yes", "b")), held)
    assert found is not None and not found.refused


LONG = "the quick brown fox jumps over the lazy dog while seven small birds look on from the old oak tree near the river"


def test_near_copies_are_found_whatever_hides_them() -> None:
    train = labelled((LONG.replace("the", "The").replace(" ", "  ") + "!!", "a"), *((f"{n} " * 9, "b") for n in range(40)))
    pairs = overlap.near(train, labelled((LONG, "a"), name="test"))
    assert [(pair.train.where, pair.held.where) for pair in pairs] == [("train.jsonl:1", "test:1")] and pairs[0].alike == 1
    fewer = overlap.near(train, labelled((LONG.replace(" river", ""), "a"), name="test"))
    assert len(fewer) == 1 and 0.8 <= fewer[0].alike < 1
    left, gone = overlap.without_copies(train, labelled((LONG, "a"), name="test"))
    assert gone == 1 and len(left) == 40


def test_texts_that_share_a_third_are_no_copies() -> None:
    other = LONG[:40] + " and then something else happens that has nothing to do with any of this at all, believe me"
    assert overlap.near(labelled((other, "a")), labelled((LONG, "a"))) == []


def test_a_form_that_all_rows_share_is_no_content() -> None:
    def chat(n: int) -> Row:
        question = f"{LONG} {n} what is the {n * 7919} of {n * 104729} and {n * 1299709}?"
        return Chat((Message("system", LONG), Message("user", question), Message("assistant", "x")), where=f"c:{n}")

    assert overlap.near([chat(n) for n in range(40)], [chat(n) for n in range(40, 60)]) == []


def test_questions_about_one_context_are_copies_only_if_they_ask_the_same() -> None:
    train = [Question("who looks on?", LONG, where="t:1")]
    assert overlap.near(train, [Question("what jumps over it?", LONG, where="e:1")]) == []
    assert len(overlap.near(train, [Question("Who looks on??", LONG + ".", where="e:1")])) == 1
    assert train[0].side() == Question("what else?", LONG).side()  # a split keeps a context on one side


def test_a_refusal_shows_all_findings_and_can_be_allowed_by_name() -> None:
    sets = RowSets(counted(positive=5, Positive=1, negative=5), [], [])
    ledger = Ledger()
    suspects.look(ledger, sets, given=False)
    with pytest.raises(DataError, match="one check refuses them") as caught:
        ledger.refuse()
    assert 'To train on them as they are: data.allow = ["label-spellings"].' in str(caught.value)
    ledger = Ledger(["label-spellings"])
    suspects.look(ledger, sets, given=False)
    ledger.refuse()
    assert any(line.startswith("label-spellings: 1 label looks like") for line in ledger.said())
    assert {entry.check for entry in ledger.entries} <= set(CHECKS)


def test_allow_names_checks() -> None:
    with pytest.raises(RecipeError, match="data.allow names 'label-speling', which is no check. Did you mean 'label-spellings'?"):
        Ledger(["label-speling"])


def test_a_split_never_holds_out_a_label_alone(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "rows.csv"
    path.write_text("text,label\n" + "".join(f"text {n},{'rare' if n == 7 else 'ab'[n % 2]}\n" for n in range(40)))
    for share in (0.3, 0.6, 0.9):
        sets = load([str(path)], share=share)
        assert {label for row in sets.held_out for label in row.labels} <= {label for row in sets.train for label in row.labels}  # type: ignore[attr-defined]


def test_few_rows_are_split_near_the_share_and_by_what_they_say() -> None:
    for number in range(20):
        found = labelled(*((f"text {number} {n}", "ab"[n % 2]) for n in range(60)))
        train, held = _divided(found, 0.1)
        assert len(held) == 6 and len(train) == 54
        assert {row.digest() for row in _divided(found[::-1], 0.1)[1]} == {row.digest() for row in held}
    questions: list[Row] = [Question(f"who {n}?", f"context {n // 20}", where=f"q:{n}") for n in range(60)]
    train, held = _divided(questions, 0.1)
    assert len(held) == 20 and not {row.side() for row in train} & {row.side() for row in held}  # a whole context, and never none
    assert _divided(questions[:20], 0.1)[1] == []  # one context is not divided


def test_near_copies_stay_on_one_side_of_a_split() -> None:
    def told(n: int) -> str:
        return " ".join(f"w{n * 31 + place}" for place in range(40))

    for count in (60, 600):  # groups that are taken one by one, and a threshold
        copies = [(text, "ab"[n % 2]) for n in range(count) for text in (told(n), f"And {told(n).upper()}!", f"{told(n)} and so on")]
        found = labelled(*copies)
        train, held = _divided(found, 0.1)
        assert overlap.near(train, held) == [] and abs(len(held) - 0.1 * len(found)) < 0.04 * len(found)
        assert {row.digest() for row in _divided(found[::-1], 0.1)[1]} == {row.digest() for row in held}
    alone = [*labelled(*((told(n), "a") for n in range(50))), *(replace(row, group=row.text) for row in found[:9])]
    assert overlap.sides(alone) == [row.side() for row in alone]


def test_of_a_few_large_groups_one_is_held_out() -> None:
    for number in range(10):
        groups = (" ".join(f"w{number}x{group}x{place}" for place in range(30)) for group in range(8))
        found = labelled(*((f"{text} number {n}", "a") for text in groups for n in range(100)))
        train, held = _divided(found, 0.1)
        assert len(held) >= 100 and len(train) >= 100 and not set(overlap.sides(train)) & set(overlap.sides(held))


def test_many_rows_keep_their_side_when_some_are_added() -> None:
    found = labelled(*((f"text {n}", "ab"[n % 2]) for n in range(700)))
    before, after = ({row.digest() for row in _divided(rows, 0.1)[1]} for rows in (found[:600], found))
    assert before <= after and not (after - before) & {row.digest() for row in found[:600]}


def test_a_split_far_from_what_was_asked_says_so() -> None:
    def last(train: int, held: int, asked: float) -> str:
        return RowSets(counted(a=train), counted(b=held), [], asked=asked).lines()[-1]

    assert "held out: 1 of 60 rows (1.7 %), where 10 % was asked for: figures on so few say little" in last(59, 1, 0.1)
    assert "held out: 3 of 30 rows (10 %): figures on so few say little" in last(27, 3, 0.1)
    assert "no figure will tell" in last(60, 0, 0.1)
    assert "32 of 100 rows (32 %)" in last(68, 32, 0.1) and "stay on one side. Give rows with data.eval" in last(68, 32, 0.1)
    assert "held out:" not in last(90, 12, 0.1) + last(60, 1, 0.0) and "held out:" in last(990, 12, 0.1)


def named(finding: Finding | None) -> list[str]:
    assert finding is not None
    return list(json.loads(finding.fix[finding.fix.index("[") : finding.fix.index("]") + 1]))


def test_what_is_said_of_numbers_among_names_works_as_it_stands(tmp_path: Path) -> None:
    labels = ["good", "bad", "3", "good", "0"]
    finding = suspects.label_numbers(scores(tmp_path, labels).train)
    assert named(finding) == ["0=class 0", "3=class 3", "1=bad", "2=good"]
    assert "'3'" in said(finding) and "with an entry for each label" in said(finding)
    sets = scores(tmp_path, labels, label_names=named(finding))
    assert [row.answers() for row in sets.train] == [("good",), ("bad",), ("class 3",), ("good",), ("class 0",)]
    assert suspects.label_numbers(sets.train) is None
    among = suspects.label_numbers(labelled(*((f"text {label}", label) for label in "0 1 2 other".split())))
    assert among and not among.refused and named(among) == ["0=class 0", "1=class 1", "2=class 2", "3=other"]
    many = suspects.label_numbers(labelled(("a", "7"), *((f"text {n}", f"name {n}") for n in range(9))))
    assert many and many.fix.endswith('["7=class 7", "0=name 0", "1=name 1", "2=name 2", "3=name 3", …].')
    dotted = suspects.label_numbers(labelled(("a", "0.5"), ("b", "good")))
    assert dotted and dotted.fix == "Write all labels alike."  # no number that a name can be given to


@pytest.mark.parametrize("turned", [False, True])
def test_numbers_of_one_side_are_paired_with_the_names_of_the_other(turned: bool) -> None:
    names, numbers = labelled(("a", "good"), ("b", "bad"), ("c", "ugly")), labelled(("d", "1"), ("e", "0"), name="eval.jsonl")
    finding = suspects.label_numbers(numbers, names) if turned else suspects.label_numbers(names, numbers)
    assert named(finding) == ["0=bad", "1=good", "2=ugly"]
    what = (
        "3 of 3 rows (100 %) of the evaluation have a name as label ('good', 'bad', 'ugly'), and the training rows have numbers ('1', '0')"
    )
    other = (
        "2 of 2 rows (100 %) of the evaluation have a number as label ('1', '0'), and the training rows have names ('good', 'bad', 'ugly')"
    )
    assert (what if turned else other) in said(finding) and said(finding).endswith("], where they count so.")


def test_how_many_labels_there_are_is_told() -> None:
    def told(rows: list[Row]) -> tuple[list[str], Any]:
        sets = RowSets(rows, [], [])
        return [line for line in sets.lines() if line.startswith(("labels", "tags"))], sets.json().get("labels")

    assert told(counted(b=2, a=1)) == (["labels: 2: 'a', 'b'"], {"count": 2, "first": ["a", "b"]})
    assert told(labelled(*((f"text {n}", f"{n / 10}") for n in range(50))))[0] == ["labels: 50: '0.0', '0.1', '0.2', '0.3', '0.4', …"]
    assert told([Tagged(("Ada", "runs"), ("B-PER", "O"))])[0] == ["tags: 2: 'B-PER', 'O'"]
    assert told([Prompt("a", "b")]) == ([], None) == told([Labelled("a", number=0.5)])


def test_label_names_stand_for_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,some text\n2,other text\n")
    sets = load([str(path)], share=0.0, names=("label", "text"), label_names=("1=World", "2=Sports"))
    assert [row.answers() for row in sets.train] == [("World",), ("Sports",)]
    with pytest.raises(DataError, match="give the names in order from 0, or each with its own number as '1=World'"):
        load([str(path)], names=("label", "text"), label_names=("1=World", "Sports"))


def scores(folder: Path, labels: Iterable[str], **options: Any) -> RowSets:
    path = folder / "score.csv"
    path.write_text("text,label\n" + "".join(f"some text {number},{label}\n" for number, label in enumerate(labels)))
    return load([str(path)], share=0.0, **options)


def test_scores_of_a_table_are_no_classes(tmp_path: Path) -> None:
    tenths = [f"{number % 50 / 10}" for number in range(200)]
    with pytest.raises(
        DataError, match=r"score.csv:3: 'label' is '0.1', a number with a fraction, and all 50 labels are numbers. For a re"
    ):
        scores(tmp_path, tenths)
    with pytest.raises(DataError, match=r"'label' is '-1e-05', a number with a fraction"):
        scores(tmp_path, ["1", "-1e-05", ".0"])
    with pytest.raises(DataError, match="'label' is '0,5', a number with a fraction, .* 'number', written with a point; classes"):
        scores(tmp_path, ['"0,5"', '"1,5"'])
    assert [row.number for row in scores(tmp_path, tenths, number=True).train][:3] == [0.0, 0.1, 0.2]  # type: ignore[union-attr]
    assert len({row.answers() for row in scores(tmp_path, tenths, label_names=sorted(set(tenths))).train}) == 50


@pytest.mark.parametrize("labels", [("1", "2"), ("1.0", "2.0"), ("3.9", "3.10", "latest"), ("1.2.3", "1.3")])
def test_classes_that_look_like_numbers_stay_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    assert [row.answers() for row in scores(tmp_path, labels).train] == [(label,) for label in labels]


def test_the_documentation_lists_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checking.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 3]
    assert listed == [f"| `{name}` | {what} |" for name, what in CHECKS.items()]


def test_a_column_of_texts_taken_for_labels_does_not_take_the_square_of_its_rows() -> None:
    passes = []

    class Counts(dict[str, int]):
        def items(self) -> Any:
            passes.append(1)
            return super().items()

    assert list(suspects._slips(Counts({f"another sentence {n}": 1 for n in range(300)}))) == []
    assert len(passes) <= 2


def test_all_copies_of_a_row_are_left_out_in_few_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{n}" for n in range(60)]
    held = labelled((" ".join(words), "a"), name="test")
    copies = [(" ".join([*words[:n], f"x{n}", *words[n + 1 :]]), "a") for n in range(20)]
    train = labelled(*copies, *((" ".join(f"w{n}x{place}" for place in range(20)), "b") for n in range(200)))
    passes, near = [], overlap.near
    monkeypatch.setattr(overlap, "near", lambda one, other: passes.append(1) or near(one, other))
    left, gone = overlap.without_copies(train, held)
    assert gone == 20 and len(left) == 200 and near(left, held) == [] and len(passes) <= 3


def test_the_same_turns_with_other_tools_are_another_row() -> None:
    turns = (Message("user", "What is 2 + 2?"), Message("assistant", "4"))
    one, other = (Chat(turns, ({"type": "function", "function": {"name": name}},)) for name in ("add", "search"))
    assert one.digest(whole=True) != other.digest(whole=True) != Chat(turns).digest(whole=True)
    assert one.digest() == other.digest() == Chat(turns).digest()  # what is read decides the side of a split


def test_rows_to_evaluate_on_are_of_the_kind_that_is_trained(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "train.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n')
    (folder / "eval.jsonl").write_text('{"prompt": "a", "completion": "x"}\n')
    (folder / "scored.jsonl").write_text('{"text": "a", "score": 3}\n')
    with pytest.raises(DataError, match=r"data\.eval: .*eval\.jsonl:1 is a prompt row, and the training rows are labelled rows"):
        load([str(folder / "train.jsonl")], [str(folder / "eval.jsonl")])
    with pytest.raises(DataError, match=r"data\.test: the label of .*scored\.jsonl:1 is a number, and that of .*train\.jsonl:1 is a class"):
        load([str(folder / "train.jsonl")], [], [str(folder / "scored.jsonl")], share=0)
