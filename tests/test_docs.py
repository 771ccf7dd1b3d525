"""Nothing in README or docs/ is only said: every Python block is run, every shown output compared, every command line checked.

The Python blocks of a page run in order in one namespace and in a folder that holds one tiny trained run, `runs/quickstart`. A `text`
block right after a `python` block is what that block prints; numbers in it may differ by 2 % or by one in the last digit shown, since the
last bits of a sum depend on the processor. A model that is pulled comes from a hub on loopback: under its name stands a tiny one of the
same architecture, with a chat template.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quire.tasks.tuning.schemas import SCHEMAS, TASKS
from tests.hub_server import Hub
from tests.small import write_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = list(dict.fromkeys(PAGES))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    language: str
    line: int
    text: str
    output: str | None = None  # of a python block


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    inside: tuple[str, int, list[str]] | None = None
    adjacent = False  # only blank lines since the last block
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if inside is None:
            if line.startswith("```"):
                inside = (line[3:].strip(), number, [])
            elif line.strip():
                adjacent = False
        elif line.startswith("```"):
            language, start, lines = inside
            if language == "text" and adjacent and found and found[-1].language == "python":
                found[-1] = Block("python", found[-1].line, found[-1].text, "\n".join(lines))
            else:
                found.append(Block(language, start, "\n".join(lines)))
            inside, adjacent = None, True
        else:
            inside[2].append(line)
    assert inside is None, f"{page.name}:{inside[1]} opens a block that never ends"
    return found


def agrees(shown: str, printed: str) -> bool:
    """Equal words, and numbers that are equal but for rounding."""

    def parts(text: str) -> tuple[str, list[str]]:
        tidy = "\n".join(line.rstrip() for line in text.strip().splitlines())
        return NUMBER.sub("#", tidy), NUMBER.findall(tidy)

    (words, numbers), (other_words, other_numbers) = parts(shown), parts(printed)
    return words == other_words and all(_close(a, b) for a, b in zip(numbers, other_numbers, strict=True))


def _close(a: str, b: str) -> bool:
    if a == b:
        return True
    if "." not in a and "e" not in a:
        return False  # a count is a count
    last = 10.0 ** -len(a.partition(".")[2].partition("e")[0])
    return abs(float(a) - float(b)) <= max(1.01 * last, 0.02 * abs(float(a)))


def test_agreement_forgives_rounding_only() -> None:
    assert agrees("loss 0.123 bits\n", "loss 0.124 bits  \n")
    assert not agrees("loss 0.123 bits", "loss 0.223 bits")
    assert not agrees("loss 0.123 bits", "loss 0.123 nats")
    assert not agrees("12 rows", "13 rows")


CHAT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# What its config.json holds beside the fields that every LLaMA has.
CHAT_CONFIG = {"is_llama_config": True, "pretraining_tp": 1, "rope_interleaved": False, "rope_scaling": None, "transformers.js_config": {}}


@pytest.fixture(scope="module", autouse=True)
def pulled_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A hub for the pages' commands, and its model in the cache as `quire pull` leaves it."""
    from huggingface_hub.utils import close_session

    from quire.cli.main import main

    place = tmp_path_factory.mktemp("hub")
    folder = write_model(place / "made", template=True, context=512, bound=False)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | CHAT_CONFIG
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.stand_in(patch, place / "cache")
        hub.add(CHAT_MODEL, {path.name: path.read_bytes() for path in folder.iterdir()})
        assert main(["pull", CHAT_MODEL]) == 0
        yield
        close_session()


@pytest.fixture(autouse=True, scope="session")
def shelf(workshop: Path) -> None:
    """What docs/uses.md works on: a model of each kind of head in models/, some questions, reviews and a report."""
    from tests.small import write_model
    from tests.tasks.readers import write

    models = workshop / "models"
    models.mkdir()
    write(models / "reviews", "SequenceClassification", labels=["negative", "neutral", "positive"])
    write(models / "names", "TokenClassification", labels=["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    write(models / "answers", "QuestionAnswering")
    write_model(models / "bert", "bert")
    write_model(models / "t5", "t5")
    write_model(models / "writer", "llama")
    (workshop / "questions.txt").write_text(
        "I forgot my password\nHow do I log in?\nWhere is my order?\nMy parcel is late\nCan I pay by card?\n"
    )
    (workshop / "reviews.jsonl").write_text('{"id": 7, "text": "I loved it."}\n{"id": 8, "text": "Never again."}\n')
    said = itertools.product(("play", "meal", "walk"), range(6), ("good", "bad"))
    (workshop / "reviews.csv").write_text("text,label\n" + "".join(f"The {one} was {how} on day {day}.,{how}\n" for one, day, how in said))
    turns = [{"messages": [{"role": "user", "content": str(n)}, {"role": "assistant", "content": str(n + 1)}]} for n in range(24)]
    (workshop / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns))
    (workshop / "report.txt").write_text("The report was written by Ada. " * 20)


def run_python(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python":
            continue
        # Padding makes the line numbers of a traceback those of the page.
        code = compile("\n" * block.line + block.text, str(page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, names)
        if block.output is not None:
            told = f"{page.name}:{block.line} shows\n{block.output}\nand prints\n{printed.getvalue()}"
            assert agrees(block.output, printed.getvalue()), told


PAGES_WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.stem)
def test_python_blocks_run_and_print_what_they_show(page: Path, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_python(page, workshop, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}, which is not there"


def commands(page: Path) -> list[tuple[int, list[str]]]:
    """(line, words) of each command line in the page's bash blocks; a backslash at the end of a line joins it to the next."""
    found = []
    for block in blocks(page):
        if block.language in ("bash", "sh"):
            for offset, line in enumerate(block.text.replace("\\\n", " " * 2).splitlines(), start=1):
                words = shlex.split(line, comments=True)
                if words:
                    found.append((block.line + offset, words))
    return found


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_named_verbs_and_targets_exist(page: Path) -> None:
    from quire.cli.main import VERBS

    for line, words in commands(page):
        if words[0] == "quire":
            assert words[1] in VERBS or words[1].startswith("--"), f"{page.name}:{line} names the verb '{words[1]}', which is not there"
        if words[0] == "make":
            targets = {word for word in words[1:] if "=" not in word}
            assert targets <= make_targets(), f"{page.name}:{line} names {targets - make_targets()}, which the Makefile does not have"


def recipe_keys(part: type | None = None, prefix: str = "") -> set[str]:
    import dataclasses
    import typing

    from quire.train.recipe import TrainRecipe

    part = part or TrainRecipe
    keys = set()
    for name, hint in typing.get_type_hints(part).items():
        keys.add(prefix + name)
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            keys |= recipe_keys(hint, f"{prefix}{name}.")
    return keys


def training_arguments() -> set[str]:
    """The fields of the installed `TrainingArguments`, read from its source: importing it takes seconds."""
    import ast
    import importlib.util

    spec = importlib.util.find_spec("transformers")
    assert spec is not None and spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "training_args.py").read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"]
    return {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}


def test_training_arguments_page_is_complete() -> None:
    whole = (ROOT / "docs" / "from-trainer-to-recipe.md").read_text(encoding="utf-8")
    page, heading, others = whole.partition("\n## PEFT\n")  # what follows has tables of other classes
    assert heading
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")]
    rows = [row for row in rows if row[0] != "`TrainingArguments`"]
    theirs = [row[0].strip("`") for row in rows]
    assert len(theirs) == len(set(theirs)), "a name stands twice"
    installed = {name for name in training_arguments() if not name.startswith("_")}
    assert set(theirs) <= installed, f"not fields of TrainingArguments: {sorted(set(theirs) - installed)}"
    assert installed <= set(theirs), f"fields without a row: {sorted(installed - set(theirs))}"
    rows += [[cell.strip() for cell in line.strip("|").split("|")] for line in others.splitlines() if line.startswith("| `")]
    ours = {name for row in rows if len(row) == 3 for name in re.findall(r"`([a-z_.]+)`", row[1])}
    assert ours <= recipe_keys(), f"not keys of a recipe: {sorted(ours - recipe_keys())}"


def test_the_page_of_tuning_says_which_rows_each_model_learns() -> None:
    words = {"encoder": {"encoder"}, "decoder": {"decoder"}, "encoder-decoder": {"seq2seq"}, "any": {"encoder", "decoder", "seq2seq"}}
    lines = (ROOT / "docs" / "tuning.md").read_text().split("| schema | columns | task | model |")[1].split("\n\n")[0].splitlines()[2:]
    for schema, _, tasks, models in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines):
        all_but, *others = models.split("; ")
        said = dict.fromkeys(tasks.split(", "), all_but) | dict(other.split(": ") for other in others)
        found = {task: set().union(*(words[word] for word in kinds.split(", "))) for task, kinds in said.items()}
        assert found == {task: set(learns.kinds) for task, learns in TASKS.items() if schema in learns.schemas}, schema
    assert len(lines) == len(SCHEMAS)


def test_the_readme_begins_with_something_that_works() -> None:
    first = blocks(ROOT / "README.md")[0]
    assert first.line < 15 and [words[:2] for _, words in commands(ROOT / "README.md")][:2] == [["make", "quickstart"], ["make", "test"]]


def test_the_readme_lists_every_verb() -> None:
    from quire.cli.main import VERBS

    listed = re.findall(r"^\| `quire ([\w-]+)` \| (.+) \|$", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert [verb for verb, _ in listed] == list(VERBS)
    for verb, text in listed:
        assert text.replace("`", "") == VERBS[verb][1], f"README says of '{verb}' what `quire --help` does not"


def test_files_named_in_documentation_and_docstrings_exist() -> None:
    names = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\b\w+\.py\b", page))
    assert named <= names, f"docs/architecture.md names {sorted(named - names)}, which are not there"
    ours = {path.name for path in (ROOT / "quire").rglob("*.py") if path.name != "__init__.py" and path.parent.name != "cli"}
    assert ours <= named, f"the map in docs/architecture.md lacks {sorted(ours - named)}"
    for path in sorted((ROOT / "quire").rglob("*.py")):
        for name in re.findall(r"(?<![\w/])docs/[\w/.-]+\.md\b", path.read_text(encoding="utf-8")):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)} names {name}, which is not there"


# How a shown command is run here: as it stands, with something quick added, or (None: it takes minutes or goes on) its options looked up.
ADDED = {
    "search": ["--library", "my_texts"],
    "train": ["--dry-run", "--train.batch", "2", "--train.threads", "1"],
    "tune": ["--train.steps", "2", "--train.threads", "1"],
    "generate": ["--max-tokens", "4"],
    "quickstart": None,
    "resume": None,
    "serve": None,
}
SHOWN = [(page, line, words) for page in PAGES for line, words in commands(page) if words[0] == "quire" and words[1:2] != ["--help"]]


@pytest.mark.parametrize(("page", "line", "words"), SHOWN, ids=[f"{page.stem}-{line}" for page, line, _ in SHOWN])
def test_shown_commands_run(
    page: Path, line: int, words: list[str], workshop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from quire.cli.main import main

    monkeypatch.chdir(workshop)
    monkeypatch.setattr("sys.stdin", io.StringIO("exit\n"))
    added = ADDED.get(words[1], [])
    if added is None:
        with pytest.raises(SystemExit) as left:
            main([words[1], "--help"])
        shown = capsys.readouterr().out
        assert left.value.code == 0
        unknown = [word for word in words[2:] if word.startswith("--") and word.partition("=")[0] not in shown]
        assert not unknown, f"{page.name}:{line} shows {unknown}, which `quire {words[1]} --help` does not have"
    else:
        code = main([*words[1:], *added])
        said = capsys.readouterr()
        assert code == 0, f"{page.name}:{line}: {' '.join(words)} ended with {code}: {said.err}"
