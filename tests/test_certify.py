"""The certificate: sound models pass whichever way they are computed, and each way is seen to fail when it is made to."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

import quire.decode.step as step
import quire.nn.attention as attention
from quire.binding import Binding
from quire.certify import FP32_LIMIT, certify, write
from quire.errors import BindingError
from quire.families.folder import ModelFolder
from quire.native import available
from quire.nn.cache import Cache
from tests.small import TASK, write_model

NATIVE = [] if "plain torch" in available() else ["native step"]  # kernels are there where there is a compiler

WAYS = {
    "llama": ["plain attention", "cached", "lean step", *NATIVE, "padded batch", "saved, reloaded"],
    "gpt2": ["plain attention", "cached", "lean step", *NATIVE, "padded batch", "saved, reloaded"],
    "bert": ["plain attention", "padded batch", "saved, reloaded"],
    "t5": ["plain attention", "cached", "padded batch", "saved, reloaded"],
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("certify")
    return {family: write_model(place / family, family) for family in TASK}


@pytest.mark.parametrize("family", list(TASK))
def test_a_sound_model_is_certified_every_way(folders, family):
    certificate = certify(folders[family], date="2026-11-22")
    assert certificate.ok, [str(check) for check in certificate.checks]
    assert [check.name for check in certificate.checks] == WAYS[family]
    assert certificate.checks[-1].difference == 0.0  # not one bit
    assert all(check.limit == FP32_LIMIT for check in certificate.checks[:-1])
    assert certificate.binding == Binding.of(folders[family]).id and certificate.date == "2026-11-22"


def test_the_certificate_is_written_and_repeats(folders):
    first = certify(folders["llama"])
    place = write(first, folders["llama"])
    value = json.loads(place.read_text())
    assert place.name == "certificate.json" and value["ok"] is True and value["binding"] == first.binding
    assert [check["name"] for check in value["checks"]] == WAYS["llama"]
    again = certify(folders["llama"])
    assert [(c.name, c.difference) for c in again.checks] == [(c.name, c.difference) for c in first.checks]


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_a_model_of_16_bits_is_allowed_what_the_number_type_costs(folders, tmp_path, dtype, word):
    opened = ModelFolder.open(folders["llama"])
    shutil.copytree(folders["llama"], tmp_path / "half")
    ModelFolder.save(tmp_path / "half", opened.build(), opened.config, dtype=dtype)
    Binding.of(tmp_path / "half").write(tmp_path / "half")
    certificate = certify(tmp_path / "half")
    assert certificate.ok, [str(check) for check in certificate.checks]
    narrow = [check for check in certificate.checks if check.dtype == word]
    assert [check.name for check in narrow] == [
        "distance to fp32",
        "plain attention",
        "cached",
        *(NATIVE if word == "bf16" else []),
        "padded batch",
    ]
    assert narrow[0].difference > 1e-4
    assert all(check.limit == 2 * narrow[0].difference for check in narrow[1:])
    json.loads(json.dumps(certificate.json(), allow_nan=False))


def failing(folder):
    certificate = certify(folder)
    assert not certificate.ok
    return {check.name for check in certificate.checks if not check.ok}


def test_each_way_fails_when_it_is_made_to(folders, monkeypatch):
    llama = folders["llama"]
    with monkeypatch.context() as patch:
        plain = attention.attend_plain
        patch.setattr(attention, "attend_plain", lambda q, k, v, **more: plain(q * 1.01, k, v, **more))
        assert failing(llama) == {"plain attention"}
    with monkeypatch.context() as patch:
        wrote = Cache.write
        patch.setattr(Cache, "write", lambda self, layer, k, v: wrote(self, layer, k * (1 + self.length * 1e-3), v))
        assert failing(llama) == {"cached"}
    with monkeypatch.context() as patch:
        product = step._product
        patch.setattr(step, "_product", lambda linear, x, rest=None: product(linear, x * 1.001, rest))
        assert failing(llama) == {"lean step"}
    with monkeypatch.context() as patch:
        build = ModelFolder.build
        calls = []

        def other(self, *args, **more):
            model = build(self, *args, **more)
            calls.append(self)
            if len(calls) == 2:  # the reloaded one: the last bit of one weight
                with torch.no_grad():
                    model.embed.weight[0] += 1e-6
            return model

        patch.setattr(ModelFolder, "build", other)
        assert failing(llama) == {"saved, reloaded"}
    assert certify(llama).ok


def test_the_largest_difference_says_where_it_is(folders, monkeypatch):
    product = step._product
    monkeypatch.setattr(step, "_product", lambda linear, x, rest=None: product(linear, x * 1.01, rest))
    check = next(check for check in certify(folders["llama"]).checks if check.name == "lean step")
    assert "lean step (fp32):" in str(check) and "at row" in str(check) and f"token {check.token}" in str(check)


def test_numbers_that_are_none_are_no_agreement(folders, monkeypatch, tmp_path):
    product = step._product
    monkeypatch.setattr(step, "_product", lambda linear, x, rest=None: product(linear, x * float("nan"), rest))
    certificate = certify(folders["llama"])
    assert not certificate.ok
    assert json.loads(json.dumps(certificate.json(), allow_nan=False))["checks"][2]["difference"] == "nan"


def test_files_that_are_not_the_bindings_get_no_certificate(folders, tmp_path):
    shutil.copytree(folders["llama"], tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BindingError, match="has other values"):
        certify(tmp_path / "model")


def test_a_certificate_of_a_folder_without_a_binding_stays_out_of_it(tmp_path):
    folder = write_model(tmp_path / "theirs", bound=False)
    before = sorted(path.name for path in folder.iterdir())
    place = write(certify(folder), folder)
    assert place.is_file() and folder not in place.parents
    assert sorted(path.name for path in folder.iterdir()) == before
