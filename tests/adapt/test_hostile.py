"""Adapter folders that are damaged, of another base, or ask for what is not computed: each is refused with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import quire
from quire.adapt import LoRA, adapters, attach, open_adapter, save_adapter
from quire.binding import Binding, bound
from quire.errors import BindingError, ModelError, QuireError, StorageError, WeightsError
from quire.families import ModelFolder
from tests.small import write_model

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "quire_adapter.json"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("base") / "gpt2", "gpt2")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    opened = ModelFolder.open(base)
    model = opened.build()
    attach(model, LoRA(4, targets=("c_attn",)), opened)
    return save_adapter(tmp_path / "adapter", model, opened, bound(base))


def read(base: Path, adapter: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build()
    try:
        open_adapter(adapter, model, opened, bound(base))
    finally:
        assert not adapters(model) or True
    assert adapters(model) == ["default"]


def edit(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | fields
        (folder / CONFIG).write_text(json.dumps(config))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    """Another file of weights, and no record that would name the change first."""

    def write(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
        (folder / RECORD).unlink()

    return write


A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
CASES: list[tuple[Callable[[Path], object], str]] = [
    (edit(peft_type="IA3"), "peft_type is 'IA3'; allowed is LORA"),
    (edit(r=0), "r is '0'; allowed is a whole number from 1 to"),
    (edit(r=10**9), "r is '1000000000'"),
    (edit(r=True), "r is 'True'"),
    (edit(r=5), "r = 5 make it"),
    (edit(lora_alpha="16"), "lora_alpha is '16'; allowed is a number"),
    (edit(lora_alpha=-1), "alpha is -1"),
    (edit(lora_dropout=1.5), "dropout is 1.5"),
    (edit(use_dora="yes"), "use_dora is 'yes'; allowed is true or false"),
    (edit(use_dora=True), "use_dora is True"),
    (edit(bias="all"), "bias is 'all'"),
    (edit(init_lora_weights="pissa"), "init_lora_weights is 'pissa'"),
    (edit(rank_pattern={"c_attn": 8}), "rank_pattern is .* is not understood"),
    (edit(lora_bias=True), "lora_bias is 'True'"),
    (edit(layer_replication=[[0, 2]]), "layer_replication"),
    (edit(use_rs_lora=True), "use_rs_lora is 'True'.* Did you mean 'use_rslora'"),
    (lambda folder: (folder / CONFIG).write_text("{"), "not a JSON object"),
    (lambda folder: (folder / CONFIG).write_text('{"r": 1, "r": 2}'), "repeated"),
    (lambda folder: (folder / CONFIG).write_text('{"x": "' + "a" * (1 << 20) + '"}'), "allowed are 1048576"),
    (lambda folder: (folder / CONFIG).unlink(), "cannot be read"),
    (lambda folder: (folder / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
    (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), "adapter_model.bin.* can run code"),
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-7]), "not a sound safetensors file"),
    (lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 64), "not a sound safetensors file"),
    (lambda folder: (folder / RECORD).write_text("[]"), "not a JSON object"),
    (lambda folder: (folder / RECORD).write_text('{"schema": 9, "base": {}}'), "Install a newer Quire"),
    (lambda folder: (folder / RECORD).write_text('{"schema": 1, "base": {"id": 3}}'), "does not name a base"),
    (weights(lambda t: t.pop(A)), "has only B of A and B"),
    (weights(lambda t: t.update({"x.lora_A.weight": t[A]})), "is no name of an adapter's weight"),
    (weights(lambda t: t.update({A.replace("c_attn", "c_atn"): t[A]})), "no module 'transformer.h.0.attn.c_atn'.* Did you mean"),
    (weights(lambda t: t.update({A.replace("h.0", "h.7"): t[A]})), "no module"),
    (weights(lambda t: t.update({A.replace("attn.c_attn", "ln_1"): t[A]})), "no linear|A and B"),
    (weights(lambda t: t.update({A: t[A][:, :5]})), "has shape"),
    (weights(lambda t: t.update({A: t[A][0]})), "has shape"),
    (weights(lambda t: t.update({A: torch.tensor(1.0)})), "has shape"),
    (weights(lambda t: t.update({A: t[A] * float("nan")})), "not a number"),
    (weights(lambda t: t.update({A: t[A].to(torch.int32)})), "has dtype I32"),
    (weights(lambda t: t.update({"base_model.model.transformer.h.0.ln_1.weight": torch.ones(32)})), "changes transformer.h.0.ln_1 itself"),
    (weights(lambda t: t.update({"base_model.model.transformer.wte.weight": torch.ones(3, 3)})), "changes transformer.wte itself"),
    (weights(lambda t: t.clear() or t.update({"base_model.model.transformer.wte.weight": torch.ones(3, 3)})), "changes"),
    (lambda folder: save_file({k: v + 1 for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS), "changed or exchanged"),
]


@pytest.mark.parametrize(("change", "message"), CASES, ids=[str(i) for i in range(len(CASES))])
def test_refused_with_its_reason(change: Callable[[Path], object], message: str, base: Path, adapter: Path) -> None:
    read(base, adapter)
    change(adapter)
    with pytest.raises(QuireError, match=message):
        read(base, adapter)


def test_a_failed_open_leaves_the_model_alone(base: Path, adapter: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build()
    edit(r=5)(adapter)
    with pytest.raises(WeightsError):
        open_adapter(adapter, model, opened, bound(base))
    assert not adapters(model) and model.state_dict().keys() == opened.build().state_dict().keys()


def test_another_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", "gpt2", template=True)
    said = rf"was trained on the base '{base}' \(\w{{12}}\), and was tried on {other} \(\w{{12}}\)\. Other: contract"
    with pytest.raises(BindingError, match=said):
        quire.load(other, adapter=adapter)
    with pytest.raises(BindingError, match="no binding to compare"):
        open_adapter(adapter, ModelFolder.open(base).build(), ModelFolder.open(base))
    (adapter / RECORD).unlink()
    with pytest.warns(UserWarning, match="has no record of its base"):
        quire.load(other, adapter=adapter)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/\x1b[2Jbase\n\u202eevil", r"the base 'org/\\x1b\[2Jbase\\n\\u202eevil' \(\w{12}\), and"),
        ("x" * 5000, r"the base 'x{200}' \(\w{12}\), and"),
        (None, r"the base \w{12}, and was tried on"),
    ],
)
def test_the_name_of_a_base_is_a_text_of_a_stranger(name: object, said: str, adapter: Path, tmp_path: Path) -> None:
    edit(base_model_name_or_path=name)(adapter)
    with pytest.raises(BindingError, match=said):
        quire.load(write_model(tmp_path / "other", "gpt2", template=True), adapter=adapter)


def test_the_record_names_the_base(base: Path, adapter: Path) -> None:
    record = json.loads((adapter / RECORD).read_text())
    own = Binding.of(base)
    assert record["base"] == {"id": own.id, "contract": own.contract_id, "weights": own.weights_id, "architecture": own.architecture_id}


def test_nothing_is_overwritten(base: Path, adapter: Path) -> None:
    opened = ModelFolder.open(base)
    model = opened.build()
    attach(model, LoRA(4), opened)
    with pytest.raises(StorageError, match="not an empty folder"):
        save_adapter(adapter, model, opened)
    with pytest.raises(ModelError):
        open_adapter(adapter / "nowhere", opened.build(), opened)
