"""What an install brings, and what importing does: few packages, all of them pinned, and no reach for the network, a process or a file."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.test_house import modules

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE_LIMIT = 25  # distributions beside torch and what torch brings anyway


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines if line)}


def closure(*requirements: str) -> set[str]:
    """Every installed distribution that these requirements bring, markers and extras resolved for this Python."""
    found: set[str] = set()
    queue = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while queue:
        requirement, extra = queue.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonical(requirement.name)
        if name == "quire":
            queue += [(Requirement(text), "") for wanted in requirement.extras for text in PROJECT["optional-dependencies"][wanted]]
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                found.add(name)
                queue += [(Requirement(text), wanted) for text in metadata.distribution(name).requires or ()]
    return found


def test_the_core_stays_small() -> None:
    ours = closure(*(text for text in PROJECT["dependencies"] if not text.startswith("torch"))) - closure("torch")
    assert len(ours) <= CORE_LIMIT, f"{len(ours)} distributions: {sorted(ours)}"


def test_every_direct_dependency_has_an_upper_bound() -> None:
    for text in [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)]:
        requirement = Requirement(text)
        if requirement.name != "quire":
            assert any(bound.operator == "<" for bound in requirement.specifier), f"{text} has no upper bound"


def test_everything_that_is_installed_for_the_tests_is_pinned() -> None:
    wanted = closure(*PROJECT["dependencies"], "quire[dev]")
    pinned = pins()
    assert wanted <= set(pinned), f"without a pin in constraints.txt: {sorted(wanted - set(pinned))}"
    for name in wanted:
        installed = metadata.version(name).partition("+")[0]  # torch 2.13.0+cpu
        assert installed == pinned[name], f"{name} {installed} is installed, and the pin is {pinned[name]}: install with -c constraints.txt"


AUDIT = """
import json, os, sys
events = []

def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename"):
        events.append([event, repr(arguments)[:200]])
    elif event == "subprocess.Popen":
        events.append([event, repr(arguments[1])[:200]])
    elif event == "open" and isinstance(arguments[0], (str, bytes)) and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            events.append([event, repr(arguments[0])[:200]])

{before}
sys.dont_write_bytecode = True
sys.addaudithook(hook)
{after}
print("EVENTS " + json.dumps(events))
"""


def test_importing_touches_nothing() -> None:
    """No connection, no process, no file written by importing any module of ours. Torch and its friends are imported beforehand."""
    libraries = "import torch, numpy, safetensors.torch, tokenizers, jinja2.sandbox, tyro, rich.console, multiprocessing.connection"
    ours = "\n".join(f"import quire.{name}" for name in modules() if name != "__init__")
    program = AUDIT.format(before=libraries, after=ours)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    events = json.loads(done.stdout.rpartition("EVENTS ")[2])
    assert events == [], "\n".join(map(str, events))
