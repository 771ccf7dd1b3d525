"""What the registry's tests do not reach in decoders: long texts, borders of scalings, experts, slopes, narrow files, refusals."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quire.errors import ModelError, WeightsError
from quire.families import FAMILIES, ModelFolder, bloom, llama, mpt
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from quire.nn.moe import balance_loss
from quire.nn.transformer import Transformer
from tests.families.reference import Case, right_padding, save_theirs, their_class, their_model, their_outputs, tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

LIMIT = 2e-5
DECODERS = "bloom gemma gemma2 gemma3_text gpt2 gpt_neox llama mistral mixtral mpt olmo2 phi phi3 qwen2 qwen3 qwen3_moe".split()


def case_of(name: str, **changes: Any) -> Case:
    return Case(FAMILIES[name], FAMILIES[name].tiny | changes)


def both(case: Case, folder: Path) -> tuple[nn.Module, Transformer]:
    theirs = their_model(case)
    return theirs, ModelFolder.open(save_theirs(theirs, folder)).build()


def close(ours: Tensor, theirs: Tensor, what: str = "", limit: float = LIMIT) -> None:
    difference = (ours - theirs).abs().max().item()
    assert difference < limit, f"{what}: largest difference {difference}"


def their_steps(theirs: nn.Module, ids: Tensor, first: int) -> Tensor:
    """Logits of the reference (B, T, V), which reads `first` tokens at once and then one at a time through its own cache."""
    from transformers import DynamicCache

    cache = DynamicCache(config=theirs.config)
    cuts = [(0, first), *((i, i + 1) for i in range(first, ids.shape[1]))]
    return torch.cat([theirs(input_ids=ids[:, a:b], past_key_values=cache, use_cache=True)["logits"] for a, b in cuts], 1)


def our_steps(ours: Transformer, ids: Tensor, first: int) -> Tensor:
    cache = Cache(ours.config, *ids.shape)
    cuts = [(0, first), *((i, i + 1) for i in range(first, ids.shape[1]))]
    return torch.cat([ours.head(ours.decode(ids[:, a:b], AttnContext(cache=cache))) for a, b in cuts], 1)


WINDOWED = [
    case_of("mistral", sliding_window=5),
    case_of("mixtral", sliding_window=5),
    case_of("qwen2", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    case_of("qwen3", use_sliding_window=True, sliding_window=5, max_window_layers=0),
    case_of("qwen3_moe", use_sliding_window=True, sliding_window=5),
    case_of("gemma2", sliding_window=5),
    case_of("gemma3_text", sliding_window=5, sliding_window_pattern=2),
    case_of("phi3", sliding_window=5),
]


@pytest.mark.parametrize("case", WINDOWED, ids=lambda case: case.family.names[0])
@torch.no_grad()
def test_far_past_the_window_at_once_and_token_by_token(case: Case, tmp_path: Path) -> None:
    theirs, ours = both(case, tmp_path)
    ids = tokens(2, 24)
    whole = theirs(input_ids=ids)["logits"]
    close(ours.head(ours(Batch(ids))), whole, "at once")
    for first in (3, 5, 11):  # the edge lies among the single steps, at the first of them, and within the prompt
        ours_cached = our_steps(ours, ids, first)
        close(ours_cached, whole, f"a prompt of {first}")
        close(ours_cached, their_steps(theirs, ids, first), f"a prompt of {first}, against their cache")


LONG = llama.SCALED | {"max_position_embeddings": 12}
SCALED = {
    "plain": case_of("llama", **LONG),
    "linear": case_of("llama", **LONG, rope_scaling={"type": "linear", "factor": 2.5}),
    "dynamic": case_of("llama", **LONG, rope_scaling={"type": "dynamic", "factor": 3.0}),
    "llama3": case_of(
        "llama", **LONG | {"max_position_embeddings": 48}, rope_scaling=llama.LLAMA3 | {"original_max_position_embeddings": 12}
    ),
    "yarn": case_of("llama", **LONG, rope_parameters=llama.YARN | {"rope_theta": 500.0, "original_max_position_embeddings": 12}),
    "yarn, ratio": case_of(
        "qwen2", max_position_embeddings=48, rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
    ),
    "yarn, attention": case_of("llama", **LONG, rope_scaling={"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.5, "beta_slow": 2}),
    "longrope": case_of("llama", **LONG | {"max_position_embeddings": 48}, rope_parameters=llama.LONG),
    "longrope, phi3": Case(FAMILIES["phi3"], FAMILIES["phi3"].tiny | FAMILIES["phi3"].variants[1]),
    "linear, gemma3": case_of("gemma3_text", sliding_window_pattern=2, rope_scaling={"rope_type": "linear", "factor": 8.0}),
    "dynamic, half of the channels": case_of("phi", max_position_embeddings=12, rope_scaling={"type": "dynamic", "factor": 2.0}),
}


@pytest.mark.parametrize("name", SCALED)
@torch.no_grad()
def test_every_scaling_below_at_and_beyond_the_original_length(name: str, tmp_path: Path) -> None:
    case = SCALED[name]
    _, ours = both(case, tmp_path)
    for length in (7, 12, 13, 40):
        theirs = their_model(case)  # a fresh one: the reference's dynamic scaling remembers the longest text it has seen
        ids = tokens(2, length)
        close(ours.head(ours(Batch(ids))), theirs(input_ids=ids)["logits"], f"{length} tokens")
    ids = tokens(2, 30)
    theirs = their_model(case)
    positions = torch.stack([torch.arange(30), (torch.arange(30) - 22).clamp(min=0)])
    keep = right_padding([30, 8], 30).clone()
    keep[1] = keep[1].flip(0)
    batch = Batch(ids, keep=keep, positions=positions)
    close(ours.head(ours(batch))[keep], their_outputs(case, theirs, batch)["logits"][keep], "rows of unequal length, padded on the left")


@pytest.mark.parametrize("name", SCALED)
@torch.no_grad()
def test_every_scaling_through_a_cache_that_crosses_the_border(name: str, tmp_path: Path) -> None:
    """The reference turns each new key by the length so far, and leaves the keys of its cache as they were turned; so do we. Where the
    frequencies depend on the length (dynamic, longrope), a text read across the border is therefore not the text read at once."""
    case = SCALED[name]
    theirs, ours = both(case, tmp_path)
    ids = tokens(2, 20)
    stepped = our_steps(ours, ids, 9)
    close(stepped, their_steps(theirs, ids, 9), "against their cache")
    whole = ours.head(ours(Batch(ids)))
    within = ours.head(ours(Batch(ids[:, :12])))
    close(stepped[:, :12], within, "up to the border it is the text read at once")
    if not name.startswith(("dynamic", "longrope")):
        close(stepped, whole, "and beyond")
    else:
        assert (stepped - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "changes"),
    [("mixtral", {}), ("mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3}), ("qwen3_moe", {"norm_topk_prob": False})],
)
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_experts_are_chosen_alike_and_the_balance_loss_is_theirs(name: str, changes: Any, padded: bool, tmp_path: Path) -> None:
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    theirs, ours = both(case_of(name, **changes), tmp_path)
    ids, moe = tokens(3, 11), ours.config.moe
    assert moe is not None and moe.balance == 0.001
    keep = right_padding([11, 6, 2], 11) if padded else None
    out = theirs(input_ids=ids, attention_mask=None if keep is None else keep.long(), output_router_logits=True)
    routing: list[Tensor] = []
    ours(Batch(ids, keep=keep), AttnContext(routing=routing))
    assert len(routing) == len(out["router_logits"]) == 2
    real = slice(None) if keep is None else keep.reshape(-1)
    for mine, other in zip(routing, out["router_logits"], strict=True):
        close(mine[real], other[real], "router")
        assert torch.equal(mine[real].topk(moe.top).indices, other[real].topk(moe.top).indices)
    wanted = load_balancing_loss_func(out["router_logits"], moe.experts, moe.top, None if keep is None else keep.long())
    assert isinstance(wanted, Tensor)
    close(balance_loss(routing, moe, keep), wanted, "balance")


def test_layers_without_experts_have_no_routing() -> None:
    model = Transformer(FAMILIES["qwen3_moe"].build(FAMILIES["qwen3_moe"].tiny | {"decoder_sparse_step": 2}))
    routing: list[Tensor] = []
    model(Batch(tokens(1, 5)), AttnContext(routing=routing))
    assert len(routing) == 1


@torch.no_grad()
def test_soft_caps_are_felt(tmp_path: Path) -> None:
    """Scores and logits far beyond the caps, so that a cap that is left out would show."""
    capped = case_of("gemma2", attn_logit_softcapping=1.5, final_logit_softcapping=1.0, query_pre_attn_scalar=1)
    theirs, ours = both(capped, tmp_path / "capped")
    free = case_of("gemma2", attn_logit_softcapping=None, final_logit_softcapping=1.0, query_pre_attn_scalar=1)
    _, without = both(free, tmp_path / "free")
    ids = tokens(2, 9)
    logits = ours.head(ours(Batch(ids)))
    close(logits, theirs(input_ids=ids)["logits"])
    assert logits.abs().max() <= 1.0
    assert (logits - without.head(without(Batch(ids)))).abs().max() > 0.1


def test_slopes_are_the_references_for_any_number_of_heads() -> None:
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    for heads in range(1, 50):
        close(torch.tensor(bloom.slopes(heads)), _get_alibi_slopes(heads, torch.device("cpu")), f"bloom, {heads} heads", 1e-7)
        rise = build_mpt_alibi_tensor(heads, 2).diff(dim=-1).flatten()  # what one step nearer adds
        close(torch.tensor(mpt.slopes(heads)), rise, f"mpt, {heads} heads", 1e-7)


@pytest.mark.parametrize(
    "case",
    [case_of("bloom", hidden_size=36, n_head=6), case_of("bloom"), case_of("mpt", d_model=40, n_heads=5), case_of("mpt")],
    ids=str,
)
@torch.no_grad()
def test_slopes_with_padding_on_either_side_and_through_a_cache(case: Case, tmp_path: Path) -> None:
    theirs, ours = both(case, tmp_path)
    ids = tokens(3, 13)
    right = right_padding([13, 7, 1], 13)
    for keep in (right, right.flip(1)):
        batch = Batch(ids, keep=keep)
        close(ours.head(ours(batch))[keep], their_outputs(case, theirs, batch)["logits"][keep])
    close(our_steps(ours, ids, 4), their_steps(theirs, ids, 4), "cached")


@pytest.mark.parametrize("name", ["gpt_neox", "mixtral", "qwen3_moe", "phi3", "bloom", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_narrow_files_in_several_parts(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Read wide they give the reference's logits, and they are written again as they were, bit for bit."""
    case = case_of(name)
    their_model(case).to(dtype).save_pretrained(tmp_path / "theirs", max_shard_size="20KB")  # type: ignore[operator]
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    folder = ModelFolder.open(tmp_path / "theirs")
    ours = folder.build()
    wide = their_class(case).from_pretrained(tmp_path / "theirs", dtype=torch.float32).eval()
    ids = tokens(2, 9)
    close(ours.head(ours(Batch(ids))), wide(input_ids=ids)["logits"])
    ModelFolder.save(tmp_path / "ours", ours, folder.config, dtype=dtype)
    again = their_class(case).from_pretrained(tmp_path / "ours", dtype="auto")
    for key, tensor in their_class(case).from_pretrained(tmp_path / "theirs", dtype="auto").state_dict().items():
        assert tensor.dtype == dtype and torch.equal(tensor, again.state_dict()[key]), key


def test_experts_that_no_file_holds_are_refused_at_once(tmp_path: Path) -> None:
    case = case_of("mixtral")
    save_theirs(their_model(case), tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": 8, "num_local_experts": 4096}))
    started = time.perf_counter()
    with pytest.raises(WeightsError, match="describes 152,[0-9,]* numbers, the files hold"):
        ModelFolder.open(tmp_path)
    assert time.perf_counter() - started < 1
    with pytest.raises(ModelError, match="num_hidden_layers is 9; allowed is a whole number from 1 to 8"):
        case.family.build(config | {"num_hidden_layers": 9, "num_local_experts": 4096})


HOSTILE: list[Any] = [
    *(None, "x", "", -1, 0, 1, 3, 0.5, 1e308, float("inf"), float("nan"), [], {}, [1], {"a": 1}, True, False, 10**30, [[]]),
    {"rope_type": "yarn", "factor": 1e308},
    {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 1},
    {"rope_type": "longrope", "short_factor": [1] * 4, "long_factor": [1] * 4, "original_max_position_embeddings": 1},
    {"rope_type": {}},
]
FIELDS = """rope_scaling rope_parameters rope_theta head_dim layer_types partial_rotary_factor attn_config id2label num_labels
    original_max_position_embeddings sliding_window""".split()


@pytest.mark.parametrize("name", DECODERS)
def test_any_value_of_any_field_is_read_or_refused(name: str) -> None:
    """Never another error than ours."""
    family = FAMILIES[name]
    for field in {*family.tiny, *FIELDS}:
        for value in HOSTILE:
            with contextlib.suppress(ModelError):
                family.build(family.tiny | {field: value}).parameters()
        with contextlib.suppress(ModelError):
            family.build({key: value for key, value in family.tiny.items() if key != field}).parameters()


YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("llama", {"rope_scaling": YARN | {"finetuned": True}}, "have the fields finetuned, which are not understood"),
        ("llama", {"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "rope type 'mrope' is not computed by this family"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "'linear' need a factor"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor is 0; allowed is a number from 0.001"),
        ("llama", {"rope_scaling": llama.LLAMA3 | {"low_freq_factor": 4.0}}, "low_freq_factor is 4 and high_freq_factor 4"),
        ("llama", {"rope_parameters": llama.LONG}, "short_factor has 8 entries; it needs a number for each of the 4 pairs"),
        ("llama", {"rope_parameters": llama.LONG | {"long_factor": 3}, "head_dim": 16}, "long_factor has 3; it needs a number"),
        ("llama", {"rope_parameters": {"rope_type": ["yarn"]}}, r"rope type \['yarn'\]"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "at least 4 channels"),
        ("llama", {"rope_theta": 1.0, "rope_scaling": YARN}, "rope_theta is 1.0; with yarn"),
        ("llama", {"architectures": ["LlamaForTokenClassification"]}, "This family reads LlamaForCausalLM, LlamaModel, LlamaForSequence"),
        ("llama", {"sliding_window": 4}, "sliding_window is 4. It changes what the model computes"),
        ("llama", {"hidden_act": "quick_gelu"}, "hidden_act is 'quick_gelu', which this family does not compute"),
        ("llama", {"architectures": ["LlamaForSequenceClassification"], "num_labels": 3, "id2label": {"0": "a"}}, "num_labels is 3"),
        ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types is"),
        ("mixtral", {"router_jitter_noise": 0.1}, "router_jitter_noise is 0.1"),
        ("mixtral", {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; allowed is a whole number from 1 to 4"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "but there is no sliding_window"),
        ("qwen2", {"layer_types": ["full_attention"]}, "for each of 2 layers"),
        ("qwen2", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ("qwen2", {"use_mrope": True}, "use_mrope is True"),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}, "mlp_only_layers is"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ("gemma3_text", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "allowed is a table for each of full_attention"),
        ("gpt_neox", {"rotary_pct": 0.4}, "0.4 of 8 channels of a head would turn, which is 3"),
        ("gpt_neox", {"rope_theta": 5.0}, "rope_theta is 5.0"),
        ("phi3", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "Allowed: default, longrope"),
        ("phi3", {"attention_bias": True}, "attention_bias is True"),
        ("mpt", {"attn_config": {"alibi": False}}, "alibi is False"),
        ("mpt", {"attn_config": {"prefix_lm": True}}, "prefix_lm is True"),
        ("mpt", {"attn_config": {"kv_n_heads": 2}}, "attn_config has kv_n_heads, which is not understood"),
        ("mpt", {"no_bias": False}, "no_bias is False"),
        ("mpt", {"logit_scale": "inv_sqrt_d_model"}, "logit_scale is 'inv_sqrt_d_model'"),
        ("bloom", {"apply_residual_connection_post_layernorm": True}, "apply_residual_connection_post_layernorm is True"),
        ("bloom", {"n_inner": 64}, "n_inner is 64"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        FAMILIES[name].build(FAMILIES[name].tiny | changes)


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        (
            "llama",
            {"rope_theta": 9.0, "rope_scaling": {"type": "linear", "factor": 2}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 9.0}},
        ),
        (
            "phi3",
            {"rope_scaling": {"type": "su", "short_factor": [1, 2, 3, 4], "long_factor": [5, 6, 7, 8]}, "max_position_embeddings": 8192},
            {
                "original_max_position_embeddings": 4096,
                "max_position_embeddings": 8192,
                "rope_parameters": {"rope_type": "longrope", "factor": 2.0, "short_factor": [1, 2, 3, 4], "long_factor": [5, 6, 7, 8]},
            },
        ),
        (
            "gpt_neox",
            {"rotary_pct": 0.5, "rotary_emb_base": 99},
            {"rope_parameters": {"rope_type": "default", "rope_theta": 99, "partial_rotary_factor": 0.5}},
        ),
        (
            "gemma3_text",
            {"rope_theta": 9e5, "rope_local_base_freq": 99.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 9e5},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 99.0},
                }
            },
        ),
        ("bloom", {"n_embed": 40, "num_hidden_layers": 2}, {"hidden_size": 40}),
        ("qwen3_moe", {"num_experts": 4}, {"num_local_experts": 4, "num_experts": None}),
        ("gemma2", {"sliding_window": 4}, {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}),
    ],
)
def test_spellings_of_the_same_model(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    tiny = {key: value for key, value in FAMILIES[name].tiny.items() if key not in ("n_layer",) or "num_hidden_layers" not in one}
    assert FAMILIES[name].build(tiny | one) == FAMILIES[name].build(FAMILIES[name].tiny | other)


@pytest.mark.parametrize(("name", "experts"), [("mixtral", 12), ("qwen3_moe", 11)])
@torch.no_grad()
def test_experts_in_one_tensor_open_too(name: str, experts: int, tmp_path: Path) -> None:
    """The form that the reference has in memory, and writes when it is told to; more than ten, so that 10 must come after 9."""
    case = case_of(name, num_local_experts=experts, num_experts=experts)
    theirs = their_model(case)
    theirs.save_pretrained(tmp_path / "theirs", save_original_format=False)  # type: ignore[operator]
    folder = ModelFolder.open(tmp_path / "theirs")
    assert "model.layers.0.mlp.experts.gate_up_proj" in folder.slots
    ids = tokens(2, 9)
    close(folder.build().head(folder.build()(Batch(ids))), theirs(input_ids=ids)["logits"])
    ModelFolder.save(tmp_path / "ours", folder.build(), folder.config)
    again = their_class(case).from_pretrained(tmp_path / "ours")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in theirs.state_dict().items())


@pytest.mark.parametrize(
    ("name", "prefix", "extra"),
    [
        ("bloom", "transformer.", ()),
        ("gpt_neox", "", ("gpt_neox.layers.0.attention.bias", "gpt_neox.layers.1.attention.rotary_emb.inv_freq")),
        ("llama", "", ("model.layers.0.self_attn.rotary_emb.inv_freq",)),
    ],
)
def test_files_of_older_releases(name: str, prefix: str, extra: tuple[str, ...], tmp_path: Path) -> None:
    """Without the prefix of the base model, or with tensors that follow from the config."""
    from safetensors.torch import load_file, save_file

    file = save_theirs(their_model(case_of(name)), tmp_path) / "model.safetensors"
    before = ModelFolder.open(tmp_path).build().state_dict()
    tensors = {key.removeprefix(prefix): tensor for key, tensor in load_file(file).items()}
    save_file(tensors | {key: torch.ones(4) for key in extra}, file, metadata={"format": "pt"})
    folder = ModelFolder.open(tmp_path)
    assert folder.ignored.keys() == set(extra)
    assert all(torch.equal(tensor, before[key]) for key, tensor in folder.build().state_dict().items())
