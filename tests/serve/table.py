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
    """script: runs in the environment that its name begins with. arguments: after the server's address, names of models. block: lines that
    the page shows, where the script marks none. alone: the one model of the server that it needs."""

    title: str
    package: str
    script: str
    arguments: tuple[str, ...] = ()
    note: str = ""
    block: str = ""
    alone: str = ""

    @property
    def environment(self) -> str:
        """The longest name of a requirements file that the script's name begins with."""
        names = [path.stem for path in SCRIPTS.glob("*.txt") if self.script.startswith(path.stem + "_")]
        return max(names, key=len)


ANTHROPIC = """import anthropic

client = anthropic.Anthropic(base_url="http://127.0.0.1:8000", api_key="none")
answer = client.messages.create(model="chat", max_tokens=64, messages=[{"role": "user", "content": "hello"}])"""
HARNESS = """\
Give it the model's folder, so that ids are made as the model makes them, and `add_bos_token=True` where the model begins a text
with a token of its own (`/tokenizer_info` names it under `special_ids`). Without a folder the harness asks the server for ids, if
the server has one model; it then leaves that token out, so its figures are not those of `model.score`. In the terminal:

```console
lm_eval --tasks arc_easy --model local-completions --model_args \\
  model=chat,base_url=http://127.0.0.1:8000/v1/completions,tokenizer=path/to/model,tokenizer_backend=huggingface,add_bos_token=True
```"""
ALL = (
    Client("OpenAI's package", "openai", "openai_embeddings", ("chat", "bert")),
    Client("OpenAI's package: chat completions", "openai", "openai_chat"),
    Client("OpenAI's package: completions", "openai", "openai_completions"),
    Client("OpenAI's package: responses", "openai", "openai_responses", ("chat",)),
    Client("Anthropic's package", "anthropic", "anthropic_messages", ("chat",), block=ANTHROPIC),
    Client(
        "LangChain",
        "langchain-openai",
        "langchain_classes",
        ("chat", "bert"),
        "Give `OpenAIEmbeddings` the argument `check_embedding_ctx_length=False`. Without it the class sends ids instead of texts, of a\n"
        "tokenizer of OpenAI's: where the model has such ids they mean other words to it, and the vectors are worth nothing. Ids that it\n"
        "does not have are refused.",
    ),
    Client("LlamaIndex", "llama-index-llms-openai-like", "llamaindex_classes", ("chat", "bert")),
    Client(
        "lm-evaluation-harness",
        "lm_eval",
        "lm_eval_completions",
        ("base",),
        HARNESS,
        alone="base",
    ),
)
CLIENTS = tuple(client for client in ALL if (SCRIPTS / f"{client.script}.py").is_file())


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
    assert isinstance(model, quire.Decoder)
    [score] = model.score([(context, continuation)])
    encode, engine = model.contract.tokenizer.encode, model.engine
    request = engine.request(encode(context + continuation), quire.Sampling(max_tokens=1), prompt_logprobs=0)
    engine.add(request)
    while not request.done:
        engine.step()
    bare = sum(fact.logprob for fact in request.prompt_facts[len(encode(context)) :] if fact is not None)
    answer = model.generate(prompt, max_tokens=12, temperature=0, stop=("\n\n",)).text
    scored = [context, continuation, score.logprob, score.greedy]
    return json.dumps({"folder": str(folder), "score": scored, "bare": bare, "answer": [prompt, answer]})


def section(client: Client, found: Mapping[str, bool]) -> str:
    """A client's part of the page."""
    names = {feature: feature.replace("_", " ") if feature.isidentifier() else feature for feature in found}
    rows = "\n".join(f"| {names[feature]} | {'yes' if works is True else 'NO'} |" for feature, works in found.items())
    block = client.block or shown(client)
    table = f"| {client.package} {version(client)} | works |\n|---|---|\n{rows}"
    parts = [f"## {client.title}", f"```py\n{block}\n```" if block else "", client.note, table]
    return "\n" + "\n\n".join(part for part in parts if part) + "\n"


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
    text = "\n".join([*imports, "", *lines]).strip()
    text = re.sub(r'f"\{url\}', '"http://127.0.0.1:8000', text)
    for name, model in (("talker", "chat"), ("reader", "encoder"), ("model", "chat"), ("folder", "path/to/model")):
        text = re.sub(rf"(\w+)={name}\b", rf'\1="{model}"', text)
    return text


def version(client: Client) -> str:
    text = (SCRIPTS / f"{client.environment}.txt").read_text(encoding="utf-8")
    [pinned] = re.findall(rf"^{re.escape(client.package)}==(\S+)$", text, flags=re.MULTILINE | re.IGNORECASE)
    return str(pinned)


def interpreter(environment: str) -> Path:
    return Path(os.environ.get("QUIRE_CLIENTS", ROOT / ".clients")) / environment / "bin" / "python"


def main() -> None:
    from tests.small import write_model

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = {"chat": write_model(root / "chat", template=True, context=512), "base": write_model(root / "base", context=512)}
        folders |= {name: write_model(root / name, name) for name in ("bert", "t5")}
        servers = {names: start(root, *(f"{name}={folders[name]}" for name in names)) for names in (tuple(folders), ("base",))}
        try:
            parts = []
            for client in CLIENTS:
                more = [expected(folders[client.alone])] if client.alone else []
                url = servers[(client.alone,) if client.alone else tuple(folders)].url
                parts.append(section(client, run(client, interpreter(client.environment), url, *more)))
                print(parts[-1], flush=True)
        finally:
            for running in servers.values():
                running.stop()
    PAGE.write_text(HEAD + "".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
