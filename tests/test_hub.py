"""Pulls from a real server on loopback: whole or not at all, and nothing that a stranger says is believed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quire
from quire import durable
from quire import hub as hubs
from quire.errors import BindingError, DataError, HubError, ModelError, QuireError, StorageError, WeightsError
from quire.hub import Name
from quire.hub.cache import PARTIAL
from quire.hub.choose import choose
from quire.hub.remote import File, Remote
from tests.hub_server import Hub, oid
from tests.small import write_model

NAME = "someone/tiny"
WEIGHTS = bytes(range(256)) * 4000  # 1 MB
MODEL = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b'{"model_max_length": 64}',
    "model.safetensors": WEIGHTS,
    "README.md": b"# tiny\n",
    "LICENSE": b"Apache 2.0",
}
OTHER = {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"graph", "modeling_tiny.py": b"import os", ".gitattributes": b"*"}


def pull(name: str = NAME, kind="model", report=None):
    return hubs.fetch(hubs.plan(Name.parse(name, kind)), report)


def lying(place: Path) -> list[str]:
    """Files of a cache, without locks."""
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if not path.is_dir() and ".locks" not in path.parts)


def refused(kind: type[QuireError], *parts: str, name: str = NAME, dataset: bool = False) -> None:
    with pytest.raises(kind) as error:
        pull(name, "dataset" if dataset else "model")
    for part in parts:
        assert part in str(error.value)


# -- what a pull leaves ---------------------------------------------------------------------------------------------------------------


def test_a_pull_takes_what_a_model_needs_and_no_more(hub: Hub, tmp_path):
    commit = hub.add(NAME, MODEL | OTHER)
    planned = hubs.plan(Name.parse(NAME))
    assert {file.path for file in planned.files} == set(MODEL) and planned.left_out == tuple(sorted(OTHER))
    assert planned.missing == planned.bytes == sum(map(len, MODEL.values())) and not (tmp_path / "hub").exists()
    seen: list[tuple[int, str]] = []
    pulled = hubs.fetch(planned, lambda done, path: seen.append((done, path)))
    assert pulled.commit == commit and pulled.fetched == planned.bytes == seen[-1][0] and seen == sorted(seen, key=lambda row: row[0])
    assert {path: (pulled.folder / path).read_bytes() for path in pulled.files} == MODEL
    assert {path: kept.sha256 for path, kept in pulled.files.items()} == {p: hashlib.sha256(d).hexdigest() for p, d in MODEL.items()}
    assert not set(hub.fetched()) & set(OTHER)
    assert not [name for name in lying(tmp_path / "hub") if PARTIAL in name]


def test_the_second_pull_fetches_nothing(hub: Hub):
    hub.add(NAME, MODEL)
    first = pull()
    hub.asked.clear()
    again = pull()
    assert (again.folder, again.files, again.fetched) == (first.folder, first.files, 0)
    assert set(hub.fetched()) <= {"config.json"}  # looked at for code before anything else


def test_the_library_finds_what_we_pulled_and_we_find_what_it_fetched(hub: Hub):
    from huggingface_hub import hf_hub_download, scan_cache_dir

    hub.add(NAME, MODEL)
    folder = pull().folder
    assert not scan_cache_dir(folder.parent.parent.parent).warnings
    hub.asked.clear()
    assert Path(hf_hub_download(NAME, "model.safetensors")) == folder / "model.safetensors"
    assert "GET" not in {method for method, *_ in hub.asked}
    hub.add("someone/else", {**MODEL, "vocab.json": b"{}"})
    hf_hub_download("someone/else", "vocab.json")  # a small file: a direct answer
    hf_hub_download("someone/else", "config.json")
    assert hubs.find(Name.parse("someone/else")) is None and [entry.name for entry in hubs.listing()] == ["someone/else", NAME]
    with pytest.raises(ModelError, match=r"quire pull someone/else\."):
        quire.load("someone/else")
    hf_hub_download("someone/else", "model.safetensors")
    assert hubs.find(Name.parse("someone/else")) is not None  # whoever fetched it
    hub.asked.clear()
    assert "vocab.json" in pull("someone/else").files and "vocab.json" not in hub.fetched()


def test_a_new_commit_is_a_new_folder_and_shares_what_did_not_change(hub: Hub):
    old = hub.add(NAME, MODEL)
    first = pull()
    new = hub.add(NAME, MODEL | {"generation_config.json": b'{"top_k": 5}'})
    hub.asked.clear()
    second = pull()
    assert (first.commit, second.commit) == (old, new) and second.fetched == len(b'{"top_k": 5}')
    assert hubs.find(Name.parse(NAME)) == second.folder and hubs.find(Name.parse(f"{NAME}@{old}")) == first.folder
    assert hubs.find(Name.parse(f"{NAME}@{old[:8]}")) == first.folder and hubs.find(Name.parse(f"{NAME}@{old[:4]}")) is None


def test_a_revision_may_be_a_tag_a_pull_request_or_a_commit(hub: Hub):
    commits = [hub.add(NAME, MODEL | {"README.md": ref.encode()}, ref=ref) for ref in ("main", "v1.0", "refs/pr/1")]
    assert pull(f"{NAME}@v1.0").commit == commits[1] and pull(f"{NAME}@refs/pr/1").commit == commits[2]
    assert pull(f"{NAME}@{commits[0]}").commit == commits[0]
    assert hubs.find(Name.parse(NAME)) is None  # nobody has pulled main by its name
    assert hubs.find(Name.parse(f"{NAME}@refs/pr/1")) is not None
    refused(HubError, "no revision 'v9'", name=f"{NAME}@v9")


def test_shards_are_those_that_the_index_names(hub: Hub):
    shards = {f"model-0000{i}-of-00002.safetensors": bytes([i]) * 1000 for i in (1, 2)}
    index = json.dumps({"weight_map": dict(zip("ab", shards))}).encode()
    config = {"config.json": b"{}", "model.safetensors.index.json": index}
    hub.add(NAME, config | shards | {"consolidated.safetensors": b"twice"})
    assert set(pull().files) == {*config, *shards}
    hub.add("someone/less", config | dict(list(shards.items())[:1]))
    refused(WeightsError, "names model-00002-of-00002.safetensors, which the repository does not have", name="someone/less")


def test_a_sentence_encoder_comes_with_its_modules(hub: Hub):
    rows = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    rows += [{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    more = {"modules.json": json.dumps(rows).encode(), "1_Pooling/config.json": b"{}", "sentence_bert_config.json": b"{}"}
    hub.add(NAME, MODEL | more | {"2_Other/config.json": b"{}"})
    files = pull().files
    assert set(more) <= set(files) and "2_Other/config.json" not in files
    rows[1]["type"] = "custom_code.Pooling"
    hub.add(NAME, MODEL | more | {"modules.json": json.dumps(rows).encode()})
    refused(ModelError, "carries code: modules.json asks for 'custom_code.Pooling'")


def test_one_gguf_file_of_several_is_named(hub: Hub):
    hub.add(NAME, {"a-q8_0.gguf": b"8" * 3000, "a-q4_0.gguf": b"4" * 2000})
    refused(HubError, "has 2 GGUF files", f"quire pull {NAME}:a-q4_0.gguf   (2kB)")
    pulled = pull(f"{NAME}:a-q4_0.gguf")
    assert set(pulled.files) == {"a-q4_0.gguf"}
    assert hubs.find(Name.parse(NAME)) == pulled.folder / "a-q4_0.gguf" == hubs.find(Name.parse(f"{NAME}:a-q4_0.gguf"))
    pull(f"{NAME}:a-q8_0.gguf")
    assert hubs.verify(pulled.folder) == 2  # the record keeps both
    refused(HubError, "no GGUF file 'b.gguf'. It has a-q4_0.gguf, a-q8_0.gguf", name=f"{NAME}:b.gguf")


# -- refused before any weights are fetched ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "kind", "parts"),
    [
        (
            MODEL | {"config.json": b'{"auto_map": {"AutoModel": "modeling_tiny.T"}}'},
            ModelError,
            ("carries code", "modeling_tiny.T", "Look for"),
        ),
        (
            {"config.json": b"{}", "pytorch_model.bin": b"x"},
            WeightsError,
            ("pytorch_model.bin", "can run code", f"quire pull {NAME}@refs/pr/1"),
        ),
        ({"model.safetensors": b"x", "adapter_config.json": b"{}"}, ModelError, ("no config.json", "an adapter to another model")),
        ({"config.json": b"{}", "notes.txt": b"x"}, WeightsError, ("has no weights", "notes.txt")),
        (MODEL | {"config.json": b"[1]"}, ModelError, ("is no JSON object, so it is no model's",)),
        (MODEL | {"config.json": b"[" * 100_000}, ModelError, ("no JSON object",)),
    ],
)
def test_code_pickles_and_what_is_no_model_are_refused(hub: Hub, tmp_path, files, kind, parts):
    hub.add(NAME, files)
    refused(kind, *parts)
    assert not {path for path in hub.fetched() if path != "config.json"} and not (tmp_path / "hub").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "a\x00b", "a\x9bb", "x" * 2000, "."])
def test_names_that_lead_elsewhere_are_refused(hub: Hub, tmp_path, path):
    hub.add(NAME, MODEL)
    hub.faults.rows = [{"type": "file", "path": path, "oid": "0" * 40, "size": 1}]
    refused(HubError, "leads out of its folder")
    assert lying(tmp_path) == []


@pytest.mark.parametrize(
    "row",
    [
        {"type": "file", "path": "x", "oid": "../../x", "size": 1},
        {"type": "file", "path": "x", "oid": "0" * 40, "size": -1},
        {"type": "file", "path": "x", "oid": "0" * 40, "size": "many"},
        {"type": "file", "path": "x.safetensors", "oid": "0" * 40, "size": 1, "lfs": {"oid": "f" * 40, "size": 1}},
        {"type": "file", "path": "x", "oid": "0" * 40, "size": 1, "lfs": "yes"},
        {"type": "file"},
        "x",
    ],
)
def test_a_row_that_makes_no_sense_is_refused(hub: Hub, row):
    hub.add(NAME, MODEL)
    hub.faults.rows = [row]
    refused(HubError, "cannot be used", "HF_ENDPOINT")


def test_a_list_without_end_is_bounded(hub: Hub):
    hub.add(NAME, MODEL)
    hub.faults.endless = True
    began = time.monotonic()
    refused(HubError, "more than 20000 files")
    assert time.monotonic() - began < 20


def test_an_answer_without_end_is_bounded(hub: Hub, monkeypatch):
    from quire.hub import remote

    hub.add(NAME, MODEL)
    monkeypatch.setattr(remote, "MAX_ANSWER", 300)
    refused(HubError, "is longer than 300 bytes")


@pytest.mark.parametrize("commit", ["main", "../../etc", "F" * 40])
def test_a_commit_that_is_none_is_refused(hub: Hub, commit):
    hub.add(NAME, MODEL)
    hub.faults.commit = commit
    refused(HubError, "names no commit")


def test_another_commit_than_the_one_asked_for_is_refused(hub: Hub):
    commit = hub.add(NAME, MODEL)
    hub.faults.commit = "0" * 40
    refused(HubError, f"asked for the commit {commit}, it answers with 0000", name=f"{NAME}@{commit}")


@pytest.mark.parametrize("text", ["", "a/b/c", "../x", "a/..", "a--b/c", "a/b@../x", "a/b:../x.gguf", "a b", "-a/b", "a/b@", "x" * 400])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(HubError, match="ORG/NAME"):
        Name.parse(text)


# -- what goes wrong on the way ---------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_goes_on_where_it_ended(hub: Hub):
    hub.add(NAME, MODEL)
    hub.faults.cut["model.safetensors"] = [300_000, 200_000]
    pulled = pull()
    ranges = [head["range"] for _, path, head in hub.asked if head.get("range") and "/resolve/" in path]
    assert ranges == ["bytes=300000-", "bytes=500000-"] and pulled.fetched == sum(map(len, MODEL.values()))
    assert (pulled.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_pull_that_was_killed_is_no_model_and_the_next_one_goes_on(hub: Hub, tmp_path):
    hub.add(NAME, MODEL)
    hub.faults.cut["model.safetensors"] = [700_000]

    def killed(done: int, path: str) -> None:
        if path == "model.safetensors" and done >= 600_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(report=killed)
    (part,) = [name for name in lying(tmp_path / "hub") if PARTIAL in name]
    assert hubs.find(Name.parse(NAME)) is None and not list((tmp_path / "hub").rglob("snapshots/*/*"))
    with pytest.raises(ModelError, match=f"quire pull {NAME}"):
        quire.load(NAME)
    (entry,) = hubs.listing()
    arrived = (tmp_path / "hub" / part).stat().st_size
    assert not entry.commit and entry.bytes == arrived + sum(map(len, MODEL.values())) - len(WEIGHTS) and arrived >= 600_000
    hub.faults.cut.clear()
    planned = hubs.plan(Name.parse(NAME))
    assert planned.missing == len(WEIGHTS) - arrived
    pulled = hubs.fetch(planned)
    assert pulled.fetched == len(WEIGHTS) - arrived and (pulled.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_line_that_gives_nothing_more_is_given_up_and_keeps_what_came(hub: Hub, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.add(NAME, MODEL)
    hub.faults.cut["model.safetensors"] = [1000, *[0] * 10]
    refused(HubError, "was cut at 1000 of 1024000 bytes", "What has arrived is kept", f"quire pull {NAME}")
    assert hubs.find(Name.parse(NAME)) is None
    hub.faults.cut.clear()
    assert pull().fetched == len(WEIGHTS) - 1000


def test_a_server_without_ranges_sends_the_whole_again(hub: Hub):
    hub.add(NAME, MODEL)
    hub.faults.whole, hub.faults.cut["model.safetensors"] = True, [300_000]
    assert (pull().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_part_whose_bytes_were_lost_is_fetched_once_more_from_the_start(hub: Hub):
    """After a power cut a part may hold zeros where bytes were on their way to the disk."""
    hub.add(NAME, MODEL)
    blobs = durable.make_folder(Name.parse(NAME).place / "blobs")
    (blobs / f"{hashlib.sha256(WEIGHTS).hexdigest()}{PARTIAL}").write_bytes(bytes(5000))
    assert (pull().folder / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize("path", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["other", "longer", "shorter"])
def test_wrong_bytes_are_refused_and_nothing_is_kept(hub: Hub, tmp_path, path, how, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.add(NAME, MODEL)
    good = MODEL[path]
    hub.faults.wrong[path] = {"other": b"!" + good[1:], "longer": good + b"!", "shorter": good[:-1]}[how]
    refused(HubError, path)
    blob = hashlib.sha256(good).hexdigest() if path == "model.safetensors" else oid(good)
    assert not [name for name in lying(tmp_path) if name.endswith(blob)] and hubs.find(Name.parse(NAME)) is None
    hub.faults.wrong.clear()
    assert (pull().folder / path).read_bytes() == good


def test_a_damaged_blob_of_another_tool_is_fetched_again(hub: Hub):
    hub.add(NAME, MODEL)
    blobs = durable.make_folder(Name.parse(NAME).place / "blobs")
    (blobs / hashlib.sha256(WEIGHTS).hexdigest()).write_bytes(WEIGHTS[:-1] + b"!")
    assert (pull().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_too_little_space_is_said_with_numbers_before_anything_is_written(hub: Hub, tmp_path):
    hub.add(NAME, MODEL)
    hub.faults.sizes["model.safetensors"] = 10**16
    refused(StorageError, "needs 1e+04TB more", "free", "HF_HOME")
    assert not (tmp_path / "hub").exists()


def test_a_disk_that_fills_up_on_the_way_is_said_and_the_pull_goes_on_later(hub: Hub, monkeypatch):
    import errno

    hub.add(NAME, MODEL)
    write, room = durable._os.write, [600_000]

    def full(file, data):
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(durable._os, "write", full)
        refused(StorageError, "the disk is full")
    assert hubs.find(Name.parse(NAME)) is None
    assert (pull().folder / "model.safetensors").read_bytes() == WEIGHTS


def test_two_pulls_of_one_name_do_not_meet(hub: Hub, tmp_path):
    hub.add(NAME, MODEL)
    with durable.lock(tmp_path / "hub" / ".locks" / "models--someone--tiny"):
        refused(StorageError, f"another process (pid {os.getpid()})", "Wait for it, or stop it.")


# -- who may, and whether it can be reached ---------------------------------------------------------------------------------------------


def test_a_private_repository_says_how_to_log_in(hub: Hub, monkeypatch):
    hub.add(NAME, MODEL)
    hub.faults.private.add(NAME)
    refused(HubError, "was not found", "if it is private: log in with `hf auth login`, or set HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    refused(HubError, "was not found", "your token may not see it")
    monkeypatch.setenv("HF_TOKEN", Hub.TOKEN)
    hub.asked.clear()
    assert pull().fetched
    heads = {"/api/" in path or "/resolve/" in path: head for _, path, head in hub.asked}
    assert heads[True]["authorization"] == f"Bearer {Hub.TOKEN}"
    assert "authorization" not in heads[False]  # the token does not follow to another host


def test_a_gated_repository_says_where_to_accept(hub: Hub):
    hub.add(NAME, MODEL)
    hub.faults.gated.add(NAME)
    refused(HubError, "is gated", f"{hub.endpoint}/{NAME}", "hf auth login")


def test_what_is_not_there_is_said(hub: Hub):
    refused(HubError, "nobody/nothing was not found", "with --dataset", name="nobody/nothing")
    refused(HubError, "nobody/nothing was not found", "without --dataset", name="nobody/nothing", dataset=True)


@pytest.mark.parametrize(("status", "message"), [(503, "answered 503"), (429, "It asks to wait"), (403, "needs a token")])
def test_a_hub_that_does_not_answer_is_said(hub: Hub, status, message, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.faults.status = status
    refused(HubError, message)


def test_a_busy_hub_is_asked_again_but_never_waited_for_without_end(hub: Hub, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    hub.add(NAME, MODEL)
    hub.faults.busy, hub.faults.retry_after = 2, "99999999"
    assert pull().fetched and waited == [30, 30]
    hub.faults.status, hub.faults.retry_after = 503, ""
    refused(HubError, "answered 503")
    assert waited[2:] == [1, 2]


def test_no_network_is_said(hub: Hub, monkeypatch):
    from huggingface_hub import constants

    hub.add(NAME, MODEL)
    pull()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(HubError, "cannot reach http://127.0.0.1:9", "HF_ENDPOINT", "opens without a network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused(HubError, "HF_HUB_OFFLINE is set")
    assert hubs.find(Name.parse(NAME)) is not None


def test_the_environment_is_honoured(hub: Hub, tmp_path):
    commit = hub.add(NAME, MODEL)
    hub.faults.private.add(NAME)
    given = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": Hub.TOKEN, "HF_HUB_OFFLINE": "0"}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "quire.cli.main", *words)
        return subprocess.run(words, env=os.environ | given | more, capture_output=True, text=True, timeout=60)

    done = run("pull", NAME, "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["commit"] == commit and row["folder"].startswith(str(tmp_path / "home" / "hub")) and "100%" in done.stderr
    done = run("pull", NAME, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr and "Traceback" not in done.stderr


# -- using it: no network from here on ---------------------------------------------------------------------------------------------------


@pytest.fixture
def chat_model(hub: Hub, tmp_path) -> Path:
    """A real tiny chat model, pulled; the server is told to fail from then on."""
    folder = write_model(tmp_path / "made", template=True, bound=False)
    hub.add(NAME, {path.name: path.read_bytes() for path in folder.iterdir()})
    pulled = pull()
    hub.faults.status = 500
    return pulled.folder


def test_a_pulled_name_loads_and_its_binding_stays_out_of_the_cache(chat_model, tmp_path):
    model = quire.load(NAME)
    before = lying(tmp_path / "hub")
    assert model.folder == chat_model and isinstance(model, quire.Decoder)
    assert model.chat([quire.Message("user", "Hello")], quire.Sampling(max_tokens=4)).text is not None
    assert quire.load(NAME, verify=True).identity == model.identity and lying(tmp_path / "hub") == before
    assert quire.load(f"{NAME}@{chat_model.name[:10]}").identity == model.identity


@pytest.mark.needs_data
def test_a_pulled_gguf_file_loads_by_name(hub: Hub, data_folder):
    file = data_folder / "models" / "stories260K" / "stories260Ktok512.gguf"
    hub.add(NAME, {file.name: file.read_bytes(), "README.md": b"# stories"})
    pulled = pull()
    hub.faults.status = 500
    how = quire.Sampling(max_tokens=8, temperature=0)
    ours = quire.load(NAME, verify=True)
    assert isinstance(ours, quire.Decoder) and ours.folder == pulled.folder / file.name
    assert ours.generate("Once upon a time", how).text == quire.load(file).generate("Once upon a time", how).text


def test_verify_names_the_file_that_changed(chat_model):
    weights = chat_model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.resolve().write_bytes(data)
    with pytest.raises(BindingError, match=r"model\.safetensors is not what was pulled.*quire rm"):
        quire.load(NAME, verify=True)
    weights.unlink()
    with pytest.raises(BindingError, match="missing"):
        hubs.verify(chat_model)


def test_a_name_that_was_not_pulled_says_the_line(hub: Hub):
    with pytest.raises(ModelError, match=r"To fetch it from the hub: quire pull someone/tiny\."):
        quire.load(NAME)
    hub.add(NAME, MODEL, ref="v1")
    pull(f"{NAME}@v1")
    with pytest.raises(ModelError, match=r"quire pull someone/tiny \(in the cache: someone/tiny@v1\)\."):
        quire.load(NAME)
    with pytest.raises(ModelError) as error:
        quire.load("./runs/someone/tiny")
    assert "quire pull" not in str(error.value) and hub.asked


def test_a_pulled_data_set_is_a_source(hub: Hub):
    from quire.data.sources import read

    rows = b"".join(json.dumps({"text": f"row {i}"}).encode() + b"\n" for i in range(3))
    hub.add("someone/rows", {"data/train.jsonl": rows, "README.md": b"# rows", "load.py": b"import os"}, kind="dataset")
    assert set(pull("someone/rows", "dataset").files) == {"data/train.jsonl"}
    hub.faults.status = 500
    found = list(read(["someone/rows*2.0"]))
    assert [one.text for one in found] == ["row 0", "row 1", "row 2"] and {one.weight for one in found} == {2.0}
    assert found[0].name == "someone/rows/data/train.jsonl:1"
    with pytest.raises(DataError, match=r"quire pull someone/other --dataset"):
        list(read(["someone/other"]))


def test_some_files_of_a_data_set_are_named_by_a_pattern(hub: Hub):
    from quire.data.sources import read

    hub.add("someone/rows", {f"data/{name}.csv": f"text\n{name}\n".encode() for name in ("train-0", "train-1", "test")}, kind="dataset")
    pulled = pull("someone/rows:data/train-*", "dataset")
    assert set(pulled.files) == {"data/train-0.csv", "data/train-1.csv"}
    assert hubs.find(Name.parse("someone/rows:data/test.csv", "dataset")) is None
    pull("someone/rows", "dataset")
    assert [one.text for one in read(["someone/rows:data/train-*"])] == ["train-0", "train-1"]
    assert len(list(read(["someone/rows"]))) == 3 and hubs.verify(pulled.folder) == 3
    refused(DataError, "no data file 'nothing*'. It holds data/test.csv", name="someone/rows:nothing*", dataset=True)


def test_a_data_set_that_is_a_program_is_refused(hub: Hub):
    hub.add("someone/rows", {"rows.py": b"import os"}, kind="dataset")
    refused(DataError, "is a program", "quire pull someone/rows@refs/convert/parquet --dataset", name="someone/rows", dataset=True)


# -- whatever a hub says ------------------------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "path", "size", "oid", "lfs", "weight_map", "auto_map", "a"]), inner, max_size=5)
    ),
    max_leaves=8,
)


@settings(max_examples=300)
@given(row=ANYTHING)
def test_any_row_of_a_list_is_a_file_or_a_clear_error(row):
    remote = Remote.__new__(Remote)
    remote.name, remote.endpoint = Name.parse(NAME), "http://hub"
    try:
        file = remote._file(row)
    except HubError:
        return
    assert file is None or (file.bytes >= 0 and ".." not in file.path.split("/") and not file.path.startswith("/"))


@settings(max_examples=300)
@given(config=ANYTHING, index=ANYTHING, modules=ANYTHING, tokenizer=ANYTHING)
def test_any_content_of_the_small_files_is_a_choice_or_a_clear_error(config, index, modules, tokenizer):
    said = {"config.json": config, "model.safetensors.index.json": index, "modules.json": modules, "tokenizer_config.json": tokenizer}
    files = {path: File(path, 10, "0" * 40) for path in [*said, "a", "model-00001-of-00001.safetensors", "1/config.json"]}
    try:
        taken = choose(Name.parse(NAME), files, lambda file, limit: json.dumps(said[file.path]).encode())
    except (ModelError, HubError):
        return
    assert {file.path for file in taken} <= files.keys()
