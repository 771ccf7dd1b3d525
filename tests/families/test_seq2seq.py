"""Encoder-decoders beyond the registry's own tests: both paddings, positions at the limit, old files, and the original Transformer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quire.errors import ContextError, ModelError, WeightsError
from quire.families import FAMILIES, ModelFolder
from quire.families.tensors import write_tensors
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.cache import Cache
from quire.nn.config import FFN, Attn, Layer, ModelConfig, Norm, Stack
from quire.nn.transformer import Transformer
from tests.families.reference import Case, save_theirs, their_model, tokens

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

NAMES = ("t5", "bart", "marian")


def opened(name: str, folder: Path, **changes: Any) -> tuple[Any, Transformer]:
    case = Case(FAMILIES[name], FAMILIES[name].tiny | changes)
    theirs = their_model(case)
    return theirs, ModelFolder.open(save_theirs(theirs, folder)).build()


def close(ours: Tensor, theirs: Tensor, limit: float = 1e-4) -> None:
    assert (ours - theirs).abs().max().item() < limit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_of_either_side_changes_nothing(name: str, side: str, tmp_path: Path) -> None:
    """Against the reference where its positions count padding too; for learned and fixed positions that is on the right."""
    theirs, ours = opened(name, tmp_path)
    source, answer = tokens(2, 10), tokens(2, 5, seed=1)
    keep = torch.arange(10)[None] < torch.tensor([[10], [6]])
    if side == "left":
        keep = keep.flip(1)
    with torch.no_grad():
        wanted = theirs(input_ids=source, attention_mask=keep.long(), decoder_input_ids=answer).logits
        found = ours.head(ours(Batch(answer, source=Batch(source, keep=keep))))  # type: ignore[misc]
        close(found, wanted)
        if side == "right" or name == "t5":
            row = source[1:, :6] if side == "right" else source[1:, 4:]
            alone = ours.head(ours(Batch(answer[1:], source=Batch(row))))  # type: ignore[misc]
            close(found[1:], alone)


@pytest.mark.parametrize("name", NAMES)
def test_cached_decoding_equals_the_references(name: str, tmp_path: Path) -> None:
    theirs, ours = opened(name, tmp_path)
    source, answer = tokens(2, 7), tokens(2, 6, seed=1)
    keep = torch.arange(7)[None] < torch.tensor([[7], [3]])
    with torch.no_grad():
        memory, cache = ours.encode(source, AttnContext(keep=keep)), Cache(ours.config, 2, 6)
        encoded, past = theirs.get_encoder()(input_ids=source, attention_mask=keep.long()), None
        for place in range(6):
            out = theirs(
                encoder_outputs=encoded,
                attention_mask=keep.long(),
                decoder_input_ids=answer[:, place : place + 1],
                past_key_values=past,
                use_cache=True,
            )
            past = out.past_key_values
            hidden = ours.decode(answer[:, place : place + 1], AttnContext(cache=cache), memory, keep)
            close(ours.head(hidden), out.logits)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_all_positions_are_there_and_none_beyond(name: str, tmp_path: Path) -> None:
    theirs, ours = opened(name, tmp_path, max_position_embeddings=12)
    source = tokens(1, 12)
    with torch.no_grad():
        wanted = theirs(input_ids=source, decoder_input_ids=source).logits
        close(ours.head(ours(Batch(source, source=Batch(source)))), wanted)  # type: ignore[misc]
    with pytest.raises(ContextError, match="13 tokens were given; this model has positions for 12"):
        ours(Batch(source, source=Batch(tokens(1, 13))))


def test_marians_base_model_and_its_tables_of_sines(tmp_path: Path) -> None:
    """Files of the base model carry the tables; they are recomputed, and equal."""
    theirs, ours = opened(
        "marian", tmp_path, architectures=["MarianModel"], d_model=20, encoder_attention_heads=2, decoder_attention_heads=2
    )
    folder = ModelFolder.open(tmp_path)
    assert sorted(folder.ignored) == ["model.decoder.embed_positions.weight", "model.encoder.embed_positions.weight"]
    assert ours.encoder is not None and ours.encoder.sinusoid is not None
    close(ours.encoder.sinusoid.table(64, torch.device("cpu"), torch.float32), theirs.encoder.embed_positions.weight, 1e-6)
    source = tokens(2, 9)
    with torch.no_grad():
        close(ours(Batch(source, source=Batch(source))), theirs(input_ids=source, decoder_input_ids=source).last_hidden_state)


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_a_file_without_a_bias_of_the_logits_has_none(name: str, tmp_path: Path) -> None:
    theirs, _ = opened(name, tmp_path)
    kept = {key: value for key, value in theirs.state_dict().items() if "lm_head" not in key and "embed_" not in key}
    kept |= {key: value for key, value in theirs.state_dict().items() if name == "bart" and "embed_positions" in key}
    del kept["final_logits_bias"]
    write_tensors(tmp_path / "model.safetensors", kept.items(), {"format": "pt"})
    ours = ModelFolder.open(tmp_path).build()
    theirs.final_logits_bias.data.zero_()
    source = tokens(1, 5)
    with torch.no_grad():
        close(ours.head(ours(Batch(source, source=Batch(source)))), theirs(input_ids=source, decoder_input_ids=source).logits)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("marian", {"decoder_vocab_size": 40}, "decoder_vocab_size is 40 beside a vocab_size of 96.*is not computed"),
        ("marian", {"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings is False"),
        ("marian", {"static_position_embeddings": False}, "static_position_embeddings is False, which this family does not compute"),
        ("marian", {"normalize_before": True}, "normalize_before is True, which this family does not compute. Allowed is False"),
        ("bart", {"normalize_embedding": False}, "normalize_embedding is False"),
        ("bart", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("bart", {"activation_function": "mish"}, "activation_function is 'mish'"),
        ("bart", {"architectures": ["BartForCausalLM"]}, "This family reads BartForConditionalGeneration, BartForSequenceClassification"),
        ("bart", {"model_type": "mbart", "architectures": ["BartModel"]}, "This family reads MBartForConditionalGeneration"),
        ("t5", {"model_type": "mt5"}, "This family reads MT5ForConditionalGeneration"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        FAMILIES[name].build(FAMILIES[name].tiny | changes)


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    theirs, _ = opened("bart", tmp_path)
    kept = {k: v for k, v in theirs.state_dict().items() if k != "model.decoder.layers.0.encoder_attn.k_proj.bias" and "lm_head" not in k}
    write_tensors(tmp_path / "model.safetensors", kept.items(), {"format": "pt"})
    with pytest.raises(WeightsError, match=r"not in the file: model.decoder.layers.0.encoder_attn.k_proj.bias"):
        ModelFolder.open(tmp_path)


# -- the original Transformer ----------------------------------------------------------------------------------------------------


def stacks(norm_first: bool, gelu: bool) -> ModelConfig:
    """What `torch.nn.Transformer` computes: it has a norm at the end of both stacks, whatever the wiring."""
    norm, both = Norm("layer", 1e-5), Attn(4, 4, 8, bias=True, out_bias=True, causal=False)
    layer = Layer(both, FFN(48, "gelu" if gelu else "relu", bias=True), norm, wiring="pre" if norm_first else "post")
    causal = Layer(Attn(4, 4, 8, bias=True, out_bias=True), layer.ffn, norm, cross=both, wiring=layer.wiring)
    places = {"positions": 64, "sinusoid": True, "final_norm": norm}
    return ModelConfig(
        32,
        vocab=96,
        context=64,
        encoder=Stack((layer,) * 2, **places),  # type: ignore[arg-type]
        decoder=Stack((causal,) * 3, **places),  # type: ignore[arg-type]
        head=None,
        embed_scale=math.sqrt(32),
    )


def copy_weights(theirs: nn.Transformer, ours: Transformer) -> None:
    def attention(a: nn.MultiheadAttention, b: nn.Module) -> None:
        for part, weight, bias in zip("qkv", a.in_proj_weight.chunk(3), a.in_proj_bias.chunk(3)):
            getattr(b, part).weight.copy_(weight)
            getattr(b, part).bias.copy_(bias)
        b.o.load_state_dict(a.out_proj.state_dict())  # type: ignore[union-attr]

    for side in ("encoder", "decoder"):
        a, b = getattr(theirs, side), getattr(ours, side)
        b.norm.load_state_dict(a.norm.state_dict())
        for one, other in zip(a.layers, b.layers):
            attention(one.self_attn, other.attn)
            norms = [other.norm_attn, other.norm_ffn]
            if side == "decoder":
                attention(one.multihead_attn, other.cross)
                norms.insert(1, other.norm_cross)
            for number, norm in enumerate(norms, 1):
                norm.load_state_dict(getattr(one, f"norm{number}").state_dict())
            other.ffn.up.load_state_dict(one.linear1.state_dict())
            other.ffn.down.load_state_dict(one.linear2.state_dict())


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("gelu", [False, True])
def test_the_original_transformer_is_torchs(norm_first: bool, gelu: bool) -> None:
    """Encoder, causal decoder, padding of both, and every gradient."""
    torch.manual_seed(0)
    act = "gelu" if gelu else "relu"
    theirs = nn.Transformer(32, 4, 2, 3, 48, 0.0, act, batch_first=True, norm_first=norm_first).train()  # eval() takes another kernel
    ours = Transformer(stacks(norm_first, gelu))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        copy_weights(theirs, ours)
    source, answer = tokens(2, 9), tokens(2, 7, seed=1)
    keep, kept = torch.arange(9)[None] < torch.tensor([[9], [4]]), torch.arange(7)[None] < torch.tensor([[7], [3]])
    assert ours.encoder is not None and ours.encoder.sinusoid is not None
    sines = ours.encoder.sinusoid.table(64, torch.device("cpu"), torch.float32)

    def embedded(ids: Tensor) -> Tensor:
        return ours.embed(ids).detach() * math.sqrt(32) + sines[: ids.shape[1]]

    mask = nn.Transformer.generate_square_subsequent_mask(7) < 0
    wanted = theirs(
        embedded(source),
        embedded(answer),
        tgt_mask=mask,
        src_key_padding_mask=~keep,
        tgt_key_padding_mask=~kept,
        memory_key_padding_mask=~keep,
    )
    found = ours(Batch(answer, keep=kept, source=Batch(source, keep=keep)))
    close(found[kept], wanted[kept], 1e-5)
    with torch.no_grad():
        memory = theirs.encoder(embedded(source), src_key_padding_mask=~keep)
        close(ours.encode(source, AttnContext(keep=keep))[keep], memory[keep], 1e-5)
    found[kept].square().sum().backward()
    wanted[kept].square().sum().backward()
    gradients = Transformer(stacks(norm_first, gelu))
    with torch.no_grad():
        for parameter in theirs.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
        copy_weights(theirs, gradients)
    for (name, one), (_, other) in zip(ours.named_parameters(), gradients.named_parameters()):
        if name != "embed.weight":
            assert one.grad is not None
            close(one.grad, other, 1e-3 * max(1.0, other.abs().max().item()))


def test_the_stock_config_of_a_new_marian_is_the_papers() -> None:
    from quire.nn.config import Sizes

    config = FAMILIES["marian"].build(FAMILIES["marian"].new(Sizes(96, 32, 2, 4, eos=1, pad=0)))
    assert config.encoder is not None and config.decoder is not None
    layer = config.encoder.layers[0]
    assert layer.wiring == "post" and layer.ffn == FFN(128, "relu", bias=True) and config.encoder.sinusoid
    assert config.embed_scale == math.sqrt(32) and config.decoder.layers[0].attn.causal
