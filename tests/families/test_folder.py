"""A folder from a stranger: what is refused, and that the words name what is wrong; what older writers left in theirs; durable saves."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quire.errors import ModelError, QuireError, StorageError, WeightsError
from quire.families import FAMILIES, ModelFolder, family_for
from quire.families.family import Rule, entries
from quire.families.ops import SPLIT
from quire.families.tensors import MAX_HEADER_BYTES, MAX_TENSORS, read_header, write_tensors
from quire.nn.batch import Batch
from quire.nn.config import MLMHead, Pooler, Sizes
from quire.nn.init import initialise
from quire.nn.transformer import Transformer

Json = dict[str, Any]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def saved(path: Path, name: str = "llama", **changes: Any) -> Path:
    family = FAMILIES[name]
    config = family.tiny | changes
    model = Transformer(family.build(config))
    initialise(model, torch.Generator().manual_seed(0))
    ModelFolder.save(path, model, config)
    return path


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        saved(root / name, name)
    return root


@pytest.fixture
def folder(originals: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a sound folder, to be damaged."""
    return lambda name: Path(shutil.copytree(originals / name, tmp_path / name))


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    config.update(changes)
    (path / "config.json").write_text(json.dumps(config))


def edit_weights(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path / WEIGHTS)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, path / WEIGHTS)


def refused(path: Path, message: str, error: type[QuireError] = ModelError) -> None:
    with pytest.raises(error, match=message):
        ModelFolder.open(path)


# --- config.json


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"model_type": "lama"}, "model_type 'lama'. Known: .*gpt2, .*Did you mean 'llama'"),
        ("llama", {"model_type": None}, "model_type None. Known: "),
        ("llama", {"auto_map": {"AutoModel": "code.Evil"}}, "auto_map.*code.Evil.*runs no code of a model"),
        ("llama", {"rope_scaling": {"rope_type": "ntk", "factor": 4.0}}, "rope type 'ntk' is not computed"),
        ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "need a factor"),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 2}}, "have the fields factor"),
        ("llama", {"rope_parameters": "linear"}, "rope_parameters is 'linear'; allowed is a table"),
        ("llama", {"sliding_window": 4096}, "sliding_window is 4096. It changes what the model computes"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"hidden_act": "relu2"}, "hidden_act is 'relu2'.*Allowed: silu"),
        ("llama", {"architectures": ["LlamaForEverything"]}, "reads LlamaForCausalLM, LlamaModel"),
        ("llama", {"num_key_value_heads": 3}, "4 query heads cannot share 3 key/value heads"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5}, "width of 32 cannot be cut into 5 heads"),
        ("llama", {"head_dim": 7}, "pairs of channels, but a head has 7"),
        ("llama", {"hidden_size": -1}, "hidden_size is -1; allowed is a whole number from 1"),
        ("llama", {"hidden_size": True}, "hidden_size is True"),
        ("llama", {"vocab_size": 10**12}, "vocab_size is 1000000000000; allowed"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ("llama", {"rms_norm_eps": "tiny"}, "rms_norm_eps is 'tiny'; allowed is a number"),
        ("llama", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; allowed is true or false"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("bert", {"is_decoder": True}, "is_decoder is True"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("bert", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu'.*Allowed: .*gelu"),
        ("bert", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'"),
        ("t5", {"feed_forward_proj": "gated-swish"}, "feed_forward_proj is 'gated-swish'"),
        ("t5", {"architectures": ["T5ForEverything"]}, "reads T5ForConditionalGeneration"),
    ],
)
def test_configs_that_cannot_be_computed_are_refused_by_name(folder: Callable[[str], Path], name: str, changes: Json, message: str) -> None:
    path = folder(name)
    edit_config(path, **changes)
    refused(path, message)


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": None},
        {"rope_scaling": {"type": "default"}},
        {"sliding_window": None},
        {"partial_rotary_factor": 1.0},
        {"pretraining_tp": 2},
        {"quantization_config": None},
        {"num_experts": 0},
        {"head_dim": None},
    ],
)
def test_values_that_change_nothing_are_accepted(folder: Callable[[str], Path], changes: Json) -> None:
    path = folder("llama")
    edit_config(path, **changes)
    assert ModelFolder.open(path).unread == ()


def test_fields_that_nobody_reads_are_shown(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    edit_config(path, my_note="from Tuesday")
    assert ModelFolder.open(path).unread == ("my_note",)


def test_both_spellings_of_theta_are_read(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    edit_config(path, rope_theta=500000.0)
    assert ModelFolder.open(path).model_config.decoder.layers[0].attn.rope.theta == 500000.0  # type: ignore[union-attr]
    edit_config(path, rope_parameters={"rope_type": "default", "rope_theta": 20000.0})
    assert ModelFolder.open(path).model_config.decoder.layers[0].attn.rope.theta == 20000.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not a JSON object"),
        (b"[1]", "is not a JSON object"),
        (b'{"a": 1, "a": 2}', "a key is repeated"),
        (b"\xff", "not a JSON object"),
    ],
)
def test_a_broken_config_is_named(folder: Callable[[str], Path], content: bytes, message: str) -> None:
    path = folder("llama")
    (path / "config.json").write_bytes(content)
    refused(path, message)


def test_what_is_no_model_is_said_to_be_none(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "is not a folder. A model is a folder with config.json and model.safetensors")
    refused(tmp_path, "config.json cannot be read")
    (tmp_path / "config.json").write_bytes(b" " * ((1 << 20) + 1))
    refused(tmp_path, "allowed are 1048576")


# --- weights


def test_weights_left_over_and_missing_are_both_named(folder: Callable[[str], Path]) -> None:
    path = folder("llama")

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.layers.0.self_attn.query.weight"] = tensors.pop("model.layers.0.self_attn.q_proj.weight")

    edit_weights(path, change)
    refused(path, r"In the file but not in the model: model.layers.0.self_attn.query.weight. In the model but not in the file: "
            r"model.layers.0.self_attn.q_proj.weight", WeightsError)  # fmt: skip


def test_a_wrong_shape_is_named_with_both_shapes(folder: Callable[[str], Path]) -> None:
    path = folder("gpt2")

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.h.1.attn.c_attn.weight"] = torch.zeros(32, 95)

    edit_weights(path, change)
    refused(path, r"c_attn.weight has shape \[32, 95\], but config.json makes it \[32, 96\]", WeightsError)


def test_weights_of_whole_numbers_are_refused(folder: Callable[[str], Path]) -> None:
    path = folder("llama")

    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.norm.weight"] = torch.ones(32, dtype=torch.int8)

    edit_weights(path, change)
    refused(path, "model.norm.weight has dtype I8", WeightsError)


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "weights.ckpt", "tf_model.h5"])
def test_pickles_are_refused_with_the_reason_and_the_way_out(folder: Callable[[str], Path], pickle: str) -> None:
    path = folder("llama")
    (path / WEIGHTS).rename(path / pickle)
    refused(path, f"{pickle}. Such files can run code when they are opened.*save_pretrained", WeightsError)


def test_no_weights_at_all(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    (path / WEIGHTS).unlink()
    refused(path, "neither model.safetensors nor model.safetensors.index.json", WeightsError)


@pytest.mark.parametrize(("dtype", "word"), [(torch.bfloat16, "BF16"), (torch.float16, "F16"), (torch.float64, "F64")])
def test_narrow_and_wide_files_open(tmp_path: Path, dtype: torch.dtype, word: str) -> None:
    family = FAMILIES["llama"]
    model = Transformer(family.build(family.tiny)).eval()
    initialise(model, torch.Generator().manual_seed(0))
    written = ModelFolder.save(tmp_path / "model", model, family.tiny, dtype=dtype)
    assert {slot.dtype for slot in written.slots.values()} == {word}
    assert written.config["dtype"] == str(dtype).removeprefix("torch.")
    again = ModelFolder.open(tmp_path / "model")
    wide, narrow = again.build(), again.build(dtype)
    for name, tensor in model.state_dict().items():
        assert torch.equal(wide.state_dict()[name], tensor.to(dtype).float())
        assert torch.equal(narrow.state_dict()[name], tensor.to(dtype))


def test_building_leaves_the_file_behind(folder: Callable[[str], Path]) -> None:
    """The model's pages are its own: a change in place reaches neither the file nor another model of the same folder."""
    path = folder("llama")
    opened = ModelFolder.open(path)
    model = opened.build()
    before = (path / WEIGHTS).read_bytes()
    with torch.no_grad():
        model.embed.weight.zero_()
    assert (path / WEIGHTS).read_bytes() == before
    assert opened.build().embed.weight.any()
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_model_outlives_its_folder(folder: Callable[[str], Path], name: str) -> None:
    """Saved over, or deleted: the numbers stay what they were."""
    path = folder(name)
    opened = ModelFolder.open(path)
    model = opened.build()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    other = opened.build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.25)
    ModelFolder.save(path, other, opened.config)
    assert all((tensor == 0.25).all() for tensor in ModelFolder.open(path).build().parameters())
    shutil.rmtree(path)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_what_the_model_keeps_as_it_lies_is_not_copied(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    model = ModelFolder.open(path).build()
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("needs Linux's list of mappings")
    lines = [line.split() for line in maps.read_text().splitlines() if line.endswith(str(path / WEIGHTS))]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    assert lines and all(line[1] == "rw-p" for line in lines)  # private: written pages are copies
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert all(any(start <= place < end for start, end in spans) for place in places)


def test_numbers_across_word_boundaries_are_read(tmp_path: Path, folder: Callable[[str], Path]) -> None:
    """Legal in a file, though no writer of ours does it: tensors that begin at any byte."""
    path = folder("llama")
    whole = {name: tensor.clone() for name, tensor in ModelFolder.open(path).build().state_dict().items()}
    data = (path / WEIGHTS).read_bytes()
    length = int.from_bytes(data[:8], "little")
    (path / WEIGHTS).write_bytes((length + 3).to_bytes(8, "little") + data[8 : 8 + length] + b"   " + data[8 + length :])
    odd = ModelFolder.open(path).build().state_dict()
    assert all(torch.equal(whole[name], odd[name]) for name in whole)


@pytest.mark.parametrize("change", ["longer", "shorter", "replaced", "gone"])
def test_a_file_that_changed_since_its_header_was_read_is_refused(folder: Callable[[str], Path], change: str) -> None:
    path = folder("llama")
    opened = ModelFolder.open(path)
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).unlink()
    if change != "gone":
        (path / WEIGHTS).write_bytes({"longer": data + b"x", "shorter": data[:-4096], "replaced": data}[change])
    with pytest.raises(WeightsError, match="was changed while it was opened|cannot be mapped into memory"):
        opened.build()


# --- several files


def shard(path: Path) -> Json:
    """Turn a folder into two shards with an index, and return the index."""
    tensors = load_file(path / WEIGHTS)
    names = sorted(tensors)
    files = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, part in files.items():
        save_file({name: tensors[name].clone() for name in part}, path / file)
    (path / WEIGHTS).unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (path / INDEX).write_text(json.dumps(index))
    return index


def test_shards_hold_the_same_model(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    whole = ModelFolder.open(path).build().state_dict()
    shard(path)
    parts = ModelFolder.open(path).build().state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    "name",
    ["../model-00001-of-00002.safetensors", "/etc/passwd", "..", "a/b.safetensors", "x.bin", "a\\b.safetensors", 7, "a..b.safetensors", ""],
)
def test_an_index_that_points_elsewhere_is_refused(folder: Callable[[str], Path], name: Any) -> None:
    path = folder("llama")
    index = shard(path)
    index["weight_map"]["model.norm.weight"] = name
    (path / INDEX).write_text(json.dumps(index))
    refused(path, "names the file .*; allowed are plain names in the same folder", WeightsError)


def test_an_index_that_disagrees_with_its_files_is_refused(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    index = shard(path)
    moved = dict(index["weight_map"]) | {"model.norm.weight": "model-00001-of-00002.safetensors"}
    (path / INDEX).write_text(json.dumps({"weight_map": moved}))
    refused(path, "disagree about model.norm.weight", WeightsError)
    (path / INDEX).write_text(json.dumps({"weight_map": {}}))
    refused(path, "has no weight_map of 1 to 50000", WeightsError)
    (path / INDEX).write_text(json.dumps(index))
    (path / "model-00002-of-00002.safetensors").unlink()
    refused(path, "model-00002-of-00002.safetensors cannot be read: No such file", WeightsError)


# --- hostile headers


def raw(path: Path, header: Any, body: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: str = "F32") -> Json:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        (b"{", b"", "not a JSON object"),
        (b'{"a":1,"a":2}', b"", "a key is repeated"),
        ({"a": 3}, b"", "tensor 'a' has no dtype"),
        ({"a": entry(dtype="F8_E4M3")}, b"x" * 8, "tensor 'a' has dtype 'F8_E4M3'; read are"),
        ({"a": entry(shape=(-2,))}, b"x" * 8, r"has shape \[-2\]"),
        ({"a": entry(shape=3)}, b"x" * 8, "has shape 3"),
        ({"a": entry(shape=(True,))}, b"x" * 8, "has shape"),
        ({"a": entry(offsets=(0, 12))}, b"x" * 12, "has 12 bytes, but its shape .* need 8"),
        ({"a": entry(shape=(2**40, 2**40))}, b"x" * 8, "has 8 bytes, but its shape"),
        ({"a": entry(), "b": entry()}, b"x" * 16, "hole or overlap at byte 0"),
        ({"a": entry(offsets=(4, 12))}, b"x" * 12, "hole or overlap"),
        ({"a": entry()}, b"x" * 9, "fill 8 bytes of 9"),
        ({"a": entry()}, b"x" * 7, "fill 8 bytes of 7"),
        ({str(i): 0 for i in range(MAX_TENSORS + 1)}, b"", "lists 50001 tensors; allowed are 50000"),
        (b" " * (MAX_HEADER_BYTES + 1), b"", "allowed are 16777216"),
        (b"[" * 100_000, b"", "not a JSON object"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: Any, body: bytes, message: str) -> None:
    raw(tmp_path / "x.safetensors", header, body)
    with pytest.raises(WeightsError, match=message):
        read_header(tmp_path / "x.safetensors")


@pytest.mark.parametrize("data", [b"", b"1234", (10**6).to_bytes(8, "little") + b"{}", b"\xff" * 16])
def test_a_file_cut_short_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="cut short, or it is something else"):
        read_header(tmp_path / "x.safetensors")


def test_flipped_bytes_never_crash(folder: Callable[[str], Path]) -> None:
    """300 files, each with a few bytes of the header changed: opened, or refused as ours."""
    path = folder("llama")
    sound = (path / WEIGHTS).read_bytes()
    length = 8 + int.from_bytes(sound[:8], "little")
    draw = random.Random(0)
    outcomes = {"opened": 0, "refused": 0}
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(length)] = draw.randrange(256)
        (path / WEIGHTS).write_bytes(data)
        try:
            ModelFolder.open(path)
            outcomes["opened"] += 1
        except QuireError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


def test_what_we_write_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6).reshape(2, 3),
        "a": torch.randn(3, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "turned": torch.randn(4, 3).t(),
        "number": torch.tensor(1.5, dtype=torch.float64),
        "mask": torch.tensor([True, False]),
    }
    write_tensors(tmp_path / "x.safetensors", tensors.items(), {"format": "pt"})
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], back[name]) and tensors[name].dtype == back[name].dtype for name in tensors)
    assert read_header(tmp_path / "x.safetensors")["turned"].shape == (3, 4)


# --- what other writers leave in their folders


def test_names_without_the_base_prefix_open(folder: Callable[[str], Path]) -> None:
    """The first release of GPT-2 on the hub is written so, with the causal mask beside the weights."""
    path = folder("gpt2")
    whole = ModelFolder.open(path).build().state_dict()
    tensors = {name.removeprefix("transformer."): t.clone() for name, t in load_file(path / WEIGHTS).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    save_file(tensors, path / WEIGHTS)
    opened = ModelFolder.open(path)
    assert opened.ignored == {"transformer.h.0.attn.bias": "the causal mask follows from the positions"}
    assert all(torch.equal(whole[name], tensor) for name, tensor in opened.build().state_dict().items())


def test_a_tied_table_may_be_repeated_but_not_differ(folder: Callable[[str], Path]) -> None:
    path = folder("gpt2")
    edit_weights(path, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"].clone()}))
    assert ModelFolder.open(path).ignored == {"lm_head.weight": "repeats transformer.wte.weight"}
    edit_weights(path, lambda tensors: tensors.update({"lm_head.weight": tensors["transformer.wte.weight"] + 1}))
    refused(path, "lm_head.weight must repeat transformer.wte.weight .they are tied., but its numbers differ", WeightsError)


def test_old_names_of_norms_and_repeated_tables_of_bert_open(folder: Callable[[str], Path]) -> None:
    path = folder("bert")
    whole = ModelFolder.open(path).build().state_dict()

    def age(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()

    edit_weights(path, age)
    opened = ModelFolder.open(path)
    assert sorted(opened.ignored) == ["bert.embeddings.position_ids", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"]
    assert all(torch.equal(whole[name], tensor) for name, tensor in opened.build().state_dict().items())


def bert_with(path: Path, architecture: str, drop: tuple[str, ...], strip: bool = False) -> Path:
    """The pre-training folder under another name, without tensors that start so, and perhaps without the prefix."""
    tensors = {name: t.clone() for name, t in load_file(path / WEIGHTS).items() if not name.startswith(drop)}
    if strip:
        tensors = {name.removeprefix("bert."): t for name, t in tensors.items()}
    save_file(tensors, path / WEIGHTS)
    edit_config(path, architectures=[architecture])
    return path


@pytest.mark.parametrize("strip", [False, True])
@pytest.mark.parametrize(
    ("architecture", "drop", "head", "ignored"),
    [
        ("BertForPreTraining", (), MLMHead(next_sentence=True), 0),
        ("BertForMaskedLM", (), MLMHead(next_sentence=True), 0),  # what the file holds is not dropped
        ("BertForMaskedLM", ("cls.seq_relationship",), MLMHead(next_sentence=False), 2),  # a pooler that nothing reads
        ("BertForMaskedLM", ("cls.seq_relationship", "bert.pooler"), MLMHead(next_sentence=False), 0),
        ("BertModel", (), MLMHead(next_sentence=True), 0),
        ("BertModel", ("cls.",), Pooler(), 0),
        ("BertModel", ("cls.", "bert.pooler"), None, 0),
    ],
)
def test_heads_of_bert_are_what_is_asked_and_what_is_there(
    folder: Callable[[str], Path], architecture: str, drop: tuple[str, ...], head: Any, ignored: int, strip: bool
) -> None:
    path = bert_with(folder("bert"), architecture, drop, strip)
    opened = ModelFolder.open(path)
    assert opened.model_config.head == head
    assert len(opened.ignored) == ignored
    assert torch.isfinite(opened.build()(Batch(torch.arange(5)[None]))).all()
    again = ModelFolder.save(path.parent / "again", opened.build(), opened.config)
    assert again.model_config == opened.model_config


@pytest.mark.parametrize(
    ("architecture", "drop", "missing"),
    [
        ("BertForMaskedLM", ("cls.",), "cls.predictions.bias"),
        ("BertForPreTraining", ("cls.seq_relationship",), "cls.seq_relationship.bias"),
        ("BertForPreTraining", ("bert.pooler",), "bert.pooler.dense.bias"),
    ],
)
def test_a_head_that_is_asked_for_must_be_there(
    folder: Callable[[str], Path], architecture: str, drop: tuple[str, ...], missing: str
) -> None:
    path = bert_with(folder("bert"), architecture, drop)
    refused(path, f"architectures .'{architecture}'.*In the file but not in the model: nothing.*not in the file: {missing}", WeightsError)


def test_an_output_table_of_its_own_unties_t5(folder: Callable[[str], Path]) -> None:
    """Files of 1.1 say "tied" in newer configs and hold a table all the same; one that repeats the embedding is tied."""
    path = folder("t5")
    assert ModelFolder.open(path).model_config.head.tied  # type: ignore[union-attr]
    edit_weights(path, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"].clone()}))
    assert ModelFolder.open(path).model_config.head.tied  # type: ignore[union-attr]
    edit_weights(path, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"] * 2}))
    opened = ModelFolder.open(path)
    assert not opened.model_config.head.tied  # type: ignore[union-attr]
    again = ModelFolder.save(path.parent / "again", opened.build(), opened.config)
    assert again.model_config == opened.model_config


# --- saving


def test_a_save_keeps_other_files_and_replaces_its_own(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    (path / "tokenizer.json").write_text("{}")
    opened = ModelFolder.open(path)
    model = opened.build()
    with torch.no_grad():
        model.embed.weight.fill_(0.5)
    ModelFolder.save(path, model, opened.config)
    assert (path / "tokenizer.json").read_text() == "{}"
    assert (ModelFolder.open(path).build().embed.weight == 0.5).all()
    assert sorted(file.name for file in path.iterdir()) == ["config.json", WEIGHTS, "tokenizer.json"]


def test_a_config_of_another_model_is_refused(folder: Callable[[str], Path], tmp_path: Path) -> None:
    opened = ModelFolder.open(folder("llama"))
    with pytest.raises(ModelError, match="config does not describe this model: decoder is .*Save it with the config"):
        ModelFolder.save(tmp_path / "new", opened.build(), opened.config | {"rms_norm_eps": 0.1})
    with pytest.raises(ModelError, match="no rule for our|does not describe"):
        ModelFolder.save(tmp_path / "new", opened.build(), FAMILIES["bert"].tiny)
    assert not (tmp_path / "new").exists()


def test_a_save_over_shards_is_refused(folder: Callable[[str], Path]) -> None:
    path = folder("llama")
    opened = ModelFolder.open(path)
    model = opened.build()
    shard(path)
    with pytest.raises(StorageError, match="holds a model in several files"):
        ModelFolder.save(path, model, opened.config)


def test_a_folder_that_cannot_be_written_is_named(folder: Callable[[str], Path], tmp_path: Path) -> None:
    opened = ModelFolder.open(folder("llama"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file"):
        ModelFolder.save(tmp_path / "file" / "model", opened.build(), opened.config)


# --- sizes and tables


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"width": 30}, "width of 30 cannot be cut into 4 heads"),
        ("llama", {"kv_heads": 3}, "4 query heads cannot share 3"),
        ("llama", {"width": 12}, "pairs of channels, but a head has 3"),
        ("llama", {"layers": 0}, "layers is 0; allowed is 1 and more"),
        ("bert", {"dropout": 1.0}, "dropout is 1.0; allowed is 0 up to"),
        ("bert", {"kv_heads": 2}, "kv_heads is 2, but bert has one for every head"),
        ("gpt2", {"kv_heads": 1}, "kv_heads is 1, but gpt2"),
        ("t5", {"kv_heads": 2}, "kv_heads is 2, but t5"),
    ],
)
def test_impossible_sizes_are_refused(family: str, changes: Json, message: str) -> None:
    sizes: Json = {"vocab": 96, "width": 32, "layers": 2, "heads": 4} | changes
    with pytest.raises(ModelError, match=message):
        FAMILIES[family].new(Sizes(**sizes))


@pytest.mark.parametrize("wanted", [True, False])
def test_bert_from_scratch_has_the_second_head_when_asked(wanted: bool) -> None:
    family = FAMILIES["bert"]
    model = family.build(family.new(Sizes(96, 32, 2, 4, next_sentence=wanted)))
    assert model.head == MLMHead(next_sentence=wanted)


def test_dropout_of_a_model_from_scratch_is_what_was_asked() -> None:
    for family in FAMILIES.values():
        model = family.build(family.new(Sizes(96, 32, 2, 4, dropout=0.1)))
        assert (model.dropout, model.attention_dropout) in ((0.1, 0.1), (0.1, None))


def test_a_rule_can_split_unequal_parts_and_join_them_again() -> None:
    """Grouped queries in one fused matrix: q is larger than k and v."""
    shapes = {"layers.0.attn.q.weight": (4, 3), "layers.0.attn.k.weight": (2, 3), "layers.0.attn.v.weight": (2, 3)}
    (entry,) = entries([Rule("layers.{i}.attn.{q,k,v}.*", "h.{i}.qkv.*", SPLIT)], shapes)
    assert (entry.theirs, entry.ours) == ("h.0.qkv.weight", tuple(shapes))
    fused = torch.arange(24.0).reshape(8, 3)
    parts = entry.op.load(fused, list(shapes.values()))
    assert [tuple(part.shape) for part in parts] == list(shapes.values())
    assert torch.equal(entry.op.save(parts), fused)


def test_a_parameter_without_a_rule_is_named() -> None:
    with pytest.raises(WeightsError, match="no rule for our extra.weight"):
        entries([Rule("embed.weight", "wte.weight")], ["embed.weight", "extra.weight"])


def test_families_answer_to_their_names() -> None:
    assert {"llama", "bert", "t5", "gpt2"} <= set(FAMILIES)
    for name, family in FAMILIES.items():
        assert family_for({"model_type": name}) is family
        assert family.build(family.tiny).kind == family.kind
