"""docs/clients.md, made by running the clients: python -m tests.serve.table

Each script of tests/serve/clients runs in the environment of its name (`make clients`) against a server over tiny random models, and prints
{feature: whether it works}. The page shows what they printed, and of each script the lines that are marked as `shown`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.serve.conftest import ROOT, start

PAGE = ROOT / "docs" / "clients.md"
SCRIPTS = ROOT / "tests" / "serve" / "clients"
HEAD = """# Clients that work

Packages that speak OpenAI's or Anthropic's APIs work with `quire serve` as they are: give them its address. A server on loopback needs no
key, and most packages want some text where a key stands.

```console
quire serve chat=MODEL encoder=OTHER-MODEL
```

This page is made by running the packages (`python -m tests.serve.table`) against tiny random models; the tests run them too, and fail when
the page says something else.
"""


@dataclass(frozen=True)
class Client:
    """script: runs in the environment of its first word. arguments: after the server's address, names of models in `folders`; names
    shown: how the page calls what the script calls otherwise. alone: it needs a server of one model."""

    title: str
    package: str
    script: str
    arguments: tuple[str, ...]
    note: str = ""
    alone: str = ""

    @property
    def environment(self) -> str:
        """The longest name of a requirements file that the script's name begins with."""
        names = [path.stem for path in SCRIPTS.glob("*.txt") if self.script.startswith(path.stem + "_")]
        return max(names, key=len)


CLIENTS = (
    Client("OpenAI's package: embeddings", "openai", "openai_embeddings", ("bert",)),
    Client(
        "LangChain",
        "langchain-openai",
        "langchain_classes",
        ("chat", "bert"),
        "Give `OpenAIEmbeddings` the argument `check_embedding_ctx_length=False`. Without it the class sends ids instead of texts, made by a\n"
        "tokenizer of OpenAI's: where the model has such ids they mean other words to it, and the vectors are worth nothing. Ids that it\n"
        "does not have are refused.",
    ),
    Client("LlamaIndex", "llama-index-llms-openai-like", "llamaindex_classes", ("chat", "bert")),
    Client(
        "lm-evaluation-harness",
        "lm_eval",
        "lm_eval_completions",
        ("base",),
        "With one model in the server, the harness makes ids by the server's own tokenizer. With several it cannot say which, so it is\n"
        "refused and wants `tokenizer=FOLDER` (and `transformers`). Tasks that measure whole texts (`loglikelihood_rolling`) or begin with\n"
        "nothing need `custom_prefix_token_id`, the id in front of a text: `/tokenizer_info` names it under `special_ids`.",
        alone="base",
    ),
)


def run(client: Client, python: Path, url: str, *more: str) -> dict[str, bool]:
    """What the client's script prints. more: arguments beside those of the table."""
    command = [str(python), str(SCRIPTS / f"{client.script}.py"), url, *client.arguments, *more]
    settings = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    settings.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=settings, cwd=tempfile.gettempdir())
    assert done.returncode == 0, f"{client.script} ended with {done.returncode}:\n{done.stderr[-6000:]}"
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert isinstance(found, dict)
    return found


def expected(folder: Path) -> str:
    """What the model itself says, for the script of lm-evaluation-harness."""
    import quire

    model = quire.load(folder)
    context, continuation, prompt = "The quick brown", " fox jumps", "The quick"
    [score] = model.score([(context, continuation)])
    answer = model.generate(prompt, max_tokens=12, temperature=0, stop=("\n\n",)).text
    return json.dumps({"score": [context, continuation, score.logprob, score.greedy], "answer": [prompt, answer]})


def section(client: Client, found: Mapping[str, bool]) -> str:
    """A client's part of the page."""
    rows = "\n".join(f"| {feature} | {'yes' if works is True else 'NO'} |" for feature, works in found.items())
    note = f"\n{client.note}\n" if client.note else ""
    return (
        f"\n## {client.title}\n\n```py\n{shown(client)}\n```\n{note}\n| {client.package} {version(client)} | works |\n|---|---|\n{rows}\n"
    )


def shown(client: Client) -> str:
    """The marked lines of a script, with an address and names as a reader has them."""
    imports, lines, inside = [], [], False
    for line in (SCRIPTS / f"{client.script}.py").read_text(encoding="utf-8").splitlines():
        if line in ("# shown", "# end"):
            inside = line == "# shown"
        elif inside:
            lines.append(line)
        elif line.endswith("  # shown"):
            imports.append(line.removesuffix("  # shown"))
    text = "\n".join([*imports, "", *lines])
    text = re.sub(r'f"\{url\}', '"http://127.0.0.1:8000', text)
    for name, model in (("talker", "chat"), ("reader", "encoder"), ("model", "chat" if client.arguments[0] != "bert" else "encoder")):
        text = re.sub(rf"(\w+)={name}\b", rf'\1="{model}"', text)
    return text


def version(client: Client) -> str:
    text = (SCRIPTS / f"{client.environment}.txt").read_text(encoding="utf-8")
    [pinned] = re.findall(rf"^{re.escape(client.package)}==(\S+)$", text, flags=re.MULTILINE | re.IGNORECASE)
    return str(pinned)


def main() -> None:
    from tests.small import write_model

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = {"chat": write_model(root / "chat", template=True, context=512), "base": write_model(root / "base", context=512)}
        folders["bert"] = write_model(root / "bert", "bert")
        parts = []
        for client in CLIENTS:
            names = [client.alone] if client.alone else list(folders)
            running = start(root, *(f"{name}={folders[name]}" for name in names))
            python = Path(os.environ.get("QUIRE_CLIENTS", ROOT / ".clients")) / client.environment / "bin" / "python"
            try:
                found = run(client, python, running.url, *([expected(folders[client.alone])] if client.alone else []))
            finally:
                running.stop()
            print(section(client, found), flush=True)
            parts.append(section(client, found))
    PAGE.write_text(HEAD + "".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
