"""Adapters in PEFT's form, both ways, with PEFT over the reference implementation as the oracle."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from quire.adapt import LoRA, attach, open_adapter, save_adapter, trainable
from quire.families import ModelFolder
from quire.families.decoders import LABELS
from tests.adapt.oracle import case_of, compared, disturb, saved_base, with_peft, without_task

CASES = {
    "llama": case_of("llama"),
    "gpt2": case_of("gpt2"),
    "bert": case_of("bert"),
    "bert-labels": case_of("bert", architectures=["BertForSequenceClassification"], **LABELS),
    "bert-answers": case_of("bert", architectures=["BertForQuestionAnswering"]),
    "modernbert-labels": case_of("modernbert", architectures=["ModernBertForSequenceClassification"], **LABELS),
    "qwen3_moe": case_of("qwen3_moe", mlp_only_layers=[0]),
    "t5": case_of("t5"),
    "phi3": case_of("phi3"),
    "gpt_neox": case_of("gpt_neox"),
}
TARGETS = {
    "llama": ("q_proj", "v_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj"),
    "bert": ("query", "dense"),
    "bert-labels": ("query", "value"),
    "bert-answers": ("query",),
    "modernbert-labels": ("Wqkv", "Wi"),
    "qwen3_moe": ("q_proj", "o_proj"),
    "t5": ("q", "wo"),
    "phi3": ("qkv_proj", "gate_up_proj"),
    "gpt_neox": ("query_key_value",),
}


def close(case, theirs, ours) -> None:
    wanted, found = compared(case, theirs, ours)
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "stabilised", "dora"])
@pytest.mark.parametrize("name", list(CASES))
def test_peft_opens_what_we_save(name: str, kind: str, tmp_path: Path) -> None:
    case = CASES[name]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    spec = LoRA(4, 8.0, targets=("all-linear",), stabilised=kind == "stabilised", dora=kind == "dora")
    attach(model, spec, opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened)
    close(case, without_task(with_peft(tmp_path / "base", tmp_path / "adapter", case)), model)
    again = opened.build()
    assert "on trust" in open_adapter(tmp_path / "adapter", again, opened).note
    for (ours, a), (other, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert ours == other and torch.equal(a, b), ours


@pytest.mark.parametrize("kind", ["plain", "stabilised", "dora"])
@pytest.mark.parametrize("name", list(CASES))
def test_we_open_what_peft_saves(name: str, kind: str, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    case = CASES[name]
    theirs, opened = saved_base(case, tmp_path / "base")
    task = {"bert-labels": "SEQ_CLS", "modernbert-labels": "SEQ_CLS", "bert-answers": "QUESTION_ANS"}.get(name)
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=list(TARGETS[name]),
        use_rslora=kind == "stabilised",
        use_dora=kind == "dora",
        init_lora_weights=False,
        fan_in_fan_out=name == "gpt2",
        task_type=task,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(3)
        tuned = get_peft_model(theirs, config).eval()
        with torch.no_grad():
            for path, parameter in tuned.named_parameters():
                if "magnitude" in path or "modules_to_save" in path:
                    parameter.add_(torch.rand_like(parameter))
        tuned.save_pretrained(str(tmp_path / "adapter"))
    model = opened.build()
    open_adapter(tmp_path / "adapter", model, opened)
    close(case, without_task(tuned), model)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("dora", [False, True])
def test_an_embedding_goes_both_ways(name: str, dora: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    case, table = CASES[name], {"llama": "embed_tokens", "gpt2": "wte"}[name]
    theirs, opened = saved_base(case, tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=4, target_modules=[table], use_dora=dora, init_lora_weights=False)
        tuned = get_peft_model(theirs, config).eval()
        tuned.save_pretrained(str(tmp_path / "adapter"))
    model = opened.build()
    open_adapter(tmp_path / "adapter", model, opened)
    close(case, tuned, model)
    disturb(model)
    save_adapter(tmp_path / "ours", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "ours", case), model)


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5", "phi3"])
def test_the_count_is_pefts(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import LoraConfig, get_peft_model

    theirs, opened = saved_base(CASES[name], tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=4, target_modules=list(TARGETS[name]), fan_in_fan_out=name == "gpt2")
        get_peft_model(theirs, config).print_trainable_parameters()
    model = opened.build()
    attach(model, LoRA(4, targets=TARGETS[name]), opened)
    assert trainable(model) == capsys.readouterr().out.strip()


def test_some_parts_of_a_fused_matrix(tmp_path: Path) -> None:
    """The part that is left out is a B of zeros in the file, and lengths of its own rows."""
    case = CASES["gpt2"]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach(model, LoRA(4, targets=("attn.q", "attn.v"), dora=True), opened)
    disturb(model)
    layer = model.decoder.layers[0].attn
    assert layer.q.adapters["default"].a is layer.v.adapters["default"].a
    save_adapter(tmp_path / "adapter", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "adapter", case), model)


def test_a_head_that_stays_frozen(tmp_path: Path) -> None:
    """PEFT looks for the head in the file of a task with labels; an adapter without it is one of no task."""
    case = CASES["bert-labels"]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach(model, LoRA(4, targets=("query",), whole=()), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "adapter", case), model)


def test_the_config_is_short(tmp_path: Path) -> None:
    _, opened = saved_base(CASES["llama"], tmp_path / "base")
    model = opened.build()
    attach(model, LoRA(4, targets=("attn.q", "attn.v")), opened)
    save_adapter(tmp_path / "adapter", model, opened)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["q_proj", "v_proj"] and config["task_type"] == "CAUSAL_LM"
    one = opened.build()
    attach(one, LoRA(4, targets=("decoder.layers.1.attn.q",)), opened)
    save_adapter(tmp_path / "one", one, opened)
    assert json.loads((tmp_path / "one" / "adapter_config.json").read_text())["target_modules"] == ["model.layers.1.self_attn.q_proj"]


def test_a_base_without_a_head(tmp_path: Path) -> None:
    """Its class has the stack's modules at the top."""
    case = case_of("bert", architectures=["BertModel"])
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach(model, LoRA(4, targets=("query",)), opened)
    disturb(model)
    save_adapter(tmp_path / "adapter", model, opened)
    close(case, with_peft(tmp_path / "base", tmp_path / "adapter", case), model)
    open_adapter(tmp_path / "adapter", opened.build(), opened)
    assert ModelFolder.open(tmp_path / "base")
