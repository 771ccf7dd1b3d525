"""The binding: what changed is named, a flipped bit by its tensor; loads are quick; nothing is written into other people's folders."""

from __future__ import annotations

import json
import os
import shutil
import struct

import pytest

from quire.binding import Binding, bound, check, record, weights
from quire.binding.record import FILE, cache_folder
from quire.errors import BindingError, WeightsError
from quire.families.folder import ModelFolder
from tests.small import write_model


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("bound") / "model", template=True, lineage={"run": "runs/one"})


@pytest.fixture
def folder(origin, tmp_path):
    return shutil.copytree(origin, tmp_path / "model")


def flip(folder, tensor=None, times=None):
    """Flips one bit in the middle of a tensor; `times` keeps the file's times as they were."""
    path = folder / "model.safetensors"
    places = weights.read_header(path)
    name = tensor or sorted(places)[3]
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[(places[name].start + places[name].end) // 2] ^= 1
    path.write_bytes(data)
    if times:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return name


def test_the_binding_is_written_read_and_equal(folder):
    found = Binding.of(folder, {"run": "runs/one"})
    kept = Binding.read(folder)
    assert kept is not None and kept.id == found.id and kept.tensors == found.tensors
    assert kept.recorded["lineage"] == {"run": "runs/one"} and "python" in kept.recorded["versions"]
    assert check(folder).id == bound(folder).id == found.id
    value = json.loads((folder / FILE).read_text())
    assert value["schema"] == 1 and value["id"] == found.id and value["contract"]["id"] == found.contract_id


def test_the_same_model_has_the_same_id_wherever_it_lies(folder, tmp_path):
    again = write_model(tmp_path / "elsewhere", template=True)
    assert Binding.of(again).id == Binding.of(folder).id
    other = write_model(tmp_path / "gpt2", "gpt2")
    assert Binding.of(other).id != Binding.of(folder).id


@pytest.mark.parametrize("verify", [False, True])
def test_a_flipped_bit_is_found_and_its_tensor_named(folder, verify):
    bound(folder)
    name = flip(folder)
    with pytest.raises(BindingError) as caught:
        bound(folder, verify)
    assert f"weight '{name}' has other values" in str(caught.value)
    assert str(caught.value).count("weight '") == 1
    assert "--rebind" in str(caught.value)


def test_a_disk_that_rots_passes_the_stamp_and_not_the_check(folder, monkeypatch):
    bound(folder)
    stamp = record._stamp(folder)
    name = flip(folder, times=True)
    assert record._stamp(folder) != stamp  # setting a file's time back does not help
    monkeypatch.setattr(record, "_stamp", lambda folder: stamp)
    bound(folder)
    with pytest.raises(BindingError, match=f"weight '{name}' has other values"):
        check(folder)


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("chat_template.jinja", "assistant", "Assistant", "the chat template (chat_template.jinja) has other content"),
        ("tokenizer.json", '"ignore_merges": false', '"ignore_merges": true', "the tokenizer (tokenizer.json) has other content"),
        ("generation_config.json", '"eos_token_id": [', '"eos_token_id": [7,', "stop rule: ids is"),
        ("config.json", '"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06', "config.json: rms_norm_eps is 1e-06 where 1e-05 was recorded"),
    ],
)
def test_every_other_part_is_named(folder, file, old, new, words):
    bound(folder)
    edit(folder / file, old, new)
    with pytest.raises(BindingError) as caught:
        bound(folder)
    assert words in str(caught.value) and "weight '" not in str(caught.value)


def test_a_missing_template_is_named(folder):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(BindingError, match=r"the chat template \(chat_template.jinja\) is missing"):
        check(folder)


def test_what_makes_no_other_model_changes_nothing(folder):
    expected = bound(folder).id
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(dict(reversed(config.items())) | {"transformers_version": "9", "dtype": "float32"}))
    edit(folder / "generation_config.json", "{", '{"temperature": 0.2,')
    assert check(folder).id == expected


def test_a_folder_without_a_binding_is_bound_in_the_cache_alone(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "theirs", bound=False)
    before = sorted(path.name for path in folder.iterdir())
    os.chmod(folder, 0o555)
    first = bound(folder)
    os.chmod(folder, 0o755)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert (cache_folder(folder) / FILE).is_file()
    stamp = record._stamp(folder)
    flip(folder)
    with monkeypatch.context() as patch:
        patch.setattr(record, "_stamp", lambda folder: stamp)
        with pytest.raises(BindingError, match="has other values"):  # nobody touched the file, and yet it is another one
            check(folder)
    flip(folder, tensor="model.norm.weight")  # replaced: another model, with another id
    assert bound(folder).id != first.id


def test_a_load_with_a_stamp_reads_no_weights(folder, monkeypatch):
    bound(folder)
    monkeypatch.setattr(weights, "tensors", lambda folder: pytest.fail("the weights were hashed"))
    bound(folder)
    os.utime(folder / "model.safetensors")
    with pytest.raises(pytest.fail.Exception):
        bound(folder)


def test_without_a_usable_cache_every_load_is_a_full_check(folder, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    expected = Binding.of(folder).id
    assert bound(folder).id == bound(folder).id == expected
    flip(folder, times=True)
    with pytest.raises(BindingError):
        bound(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(schema=99), "schema 99; this Quire reads up to 1"),
        (lambda v: v.update(id="0" * 64), "its binding id does not follow from what it lists"),
        (lambda v: v["weights"]["tensors"].popitem(), "its weights id does not follow"),
        (lambda v: v["contract"]["stop rule"]["ids"].append(9), "its contract id does not follow"),
        (lambda v: v.pop("architecture"), "is damaged"),
        (lambda v: v.update(weights=[]), "is damaged"),
    ],
)
def test_a_binding_that_was_edited_is_refused(folder, change, words):
    value = json.loads((folder / FILE).read_text())
    change(value)
    (folder / FILE).write_text(json.dumps(value))
    with pytest.raises(BindingError) as caught:
        bound(folder)
    assert words in str(caught.value)
    (folder / FILE).write_text("{")
    with pytest.raises(BindingError, match="is not JSON"):
        bound(folder)


def test_many_differences_are_counted_not_listed(folder):
    shutil.copy(write_model(folder.parent / "other", "llama", context=32) / "config.json", folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    for place in range(len(data) // 2, len(data), 64):
        data[place] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(BindingError) as caught:
        check(folder)
    assert "more weights differ" in str(caught.value) and str(caught.value).count("\n") < 12
    assert "max_position_embeddings is 32 where 64" in str(caught.value)


def test_shards_are_hashed_as_one_model(folder):
    from safetensors.numpy import load_file, save_file

    expected = Binding.of(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, folder / file)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert Binding.of(folder).id == expected.id
    ModelFolder.open(folder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(WeightsError, match="model-2.safetensors cannot be read: No such file"):
        Binding.of(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(WeightsError, match="allowed are plain names in the same folder"):
        Binding.of(folder)


def test_no_weights_at_all_and_a_tensor_that_is_there_twice(tmp_path):
    with pytest.raises(WeightsError, match="has no weights"):
        weights.tensors(tmp_path)
    raw = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    for name in ("x", "y"):
        (tmp_path / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"\0" * 16)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}')
    with pytest.raises(WeightsError, match="disagree about a, b"):
        weights.tensors(tmp_path)
