"""Encoders beyond what the registry-wide parity covers: heads on unequal rows, lengths at and past limits, old spellings, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quire.errors import ContextError, ModelError, WeightsError
from quire.families import FAMILIES, ModelFolder
from quire.nn.attention import AttnContext
from quire.nn.batch import Batch
from quire.nn.config import LabelHead, MLMHead, Pooler
from quire.nn.init import initialise
from quire.nn.transformer import Transformer
from tests.families.reference import CASES, Case, right_padding, tokens
from tests.families.stacks import case_of, hidden, near, opened, ours

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NAMES = ("bert", "roberta", "xlm-roberta", "distilbert", "albert", "deberta-v2", "mpnet", "modernbert")
LABELLED = [case for case in CASES if case.family.names[0] in NAMES and isinstance(case.model.head, LabelHead)]


# --- heads


@pytest.mark.parametrize("case", LABELLED, ids=str)
def test_labels_of_a_row_do_not_depend_on_its_neighbours(case: Case) -> None:
    """Padding, pooling and the labels of tokens: in a batch of unequal rows as alone."""
    model = Transformer(case.model).eval()
    initialise(model, torch.Generator().manual_seed(3))
    lengths = [13, 7, 1]
    ids, keep = tokens(3, 13), right_padding(lengths, 13)
    with torch.no_grad():
        together = model.head(model(Batch(ids, keep=keep)), keep)
        for row, length in enumerate(lengths):
            alone = model.head(model(Batch(ids[row : row + 1, :length])))[0]
            near(together[row] if alone.ndim == 1 else together[row, :length], alone)


def test_every_family_has_every_head() -> None:
    for name in NAMES:
        heads = {type(case.model.head) for case in CASES if case.family.names[0] == name}
        overs = {case.model.head.over for case in LABELLED if case.family.names[0] == name}  # type: ignore[union-attr]
        if name != "xlm-roberta":  # roberta under another name
            assert {MLMHead, LabelHead} <= heads and heads & {Pooler, type(None)}
            assert {"row", "token", "span"} <= overs


def test_next_sentence_alone_is_asked_as_beside_words(tmp_path: Path) -> None:
    theirs, model = opened(case_of("bert", architectures=["BertForNextSentencePrediction"]), tmp_path)
    ids = tokens(2, 9)
    with torch.no_grad():
        near(model.head.next_sentence(model(Batch(ids))), theirs(ids).logits)
    other = Transformer(case_of("bert", architectures=["BertForSequenceClassification"]).model)
    with pytest.raises(ModelError, match="no next-sentence classifier"):
        other.head.next_sentence(torch.zeros(1, 2, 32))


def test_a_next_sentence_classifier_is_no_classifier_of_labels(tmp_path: Path) -> None:
    opened(case_of("bert", architectures=["BertForNextSentencePrediction"]), tmp_path)
    respell(tmp_path, lambda tensors: tensors, architectures=["BertForSequenceClassification"])
    with pytest.raises(WeightsError, match=r"not in the model: cls\.seq_relationship\.bias.*not in the file: classifier\.bias"):
        ModelFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlm-roberta", "albert", "mpnet"])
def test_a_base_model_without_its_pooler_opens(name: str, tmp_path: Path) -> None:
    import transformers

    case = case_of(name, architectures=[FAMILIES[name].bare[0]])
    config = transformers.AutoConfig.for_model(**case.config)
    theirs = getattr(transformers, FAMILIES[name].bare[0])(config, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    folder = ModelFolder.open(tmp_path / "theirs")
    assert folder.model_config.head is None
    ids = tokens(2, 9)
    near(ours(folder.build(), ids), hidden(theirs, ids))
    again = ModelFolder.save(tmp_path / "ours", folder.build(), folder.config)
    assert sorted(again._disk_names.values()) == sorted(folder._disk_names.values())


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "mpnet"])
def test_a_base_model_under_the_name_of_a_masked_one_opens(name: str, tmp_path: Path) -> None:
    """As sentence-transformers writes it: base names without a prefix, and `architectures` of the class the training began with."""
    base, words = FAMILIES[name].bare[0], FAMILIES[name].bare[0].replace("Model", "ForMaskedLM")
    theirs, _ = opened(case_of(name, architectures=[base]), tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(path.read_text().replace(f'"{base}"', f'"{words}"'))
    folder = ModelFolder.open(tmp_path / "theirs")
    assert isinstance(folder.model_config.head, Pooler | None)
    ids = tokens(2, 9)
    near(ours(folder.build(), ids), hidden(theirs, ids))
    again = ModelFolder.save(tmp_path / "ours", folder.build(), folder.config)
    first, second = load_file(tmp_path / "theirs" / "model.safetensors"), load_file(tmp_path / "ours" / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert again.model_config == folder.model_config


# --- lengths


@pytest.mark.parametrize(
    ("name", "rows"), [("bert", 11), ("roberta", 13), ("xlm-roberta", 13), ("distilbert", 11), ("albert", 11), ("mpnet", 13)]
)
def test_the_last_position_is_equal_and_the_next_one_refused(name: str, rows: int, tmp_path: Path) -> None:
    theirs, model = opened(case_of(name, max_position_embeddings=rows), tmp_path)
    assert model.config.context == 11
    ids, keep = tokens(2, 11), right_padding([11, 3], 11)
    near(ours(model, ids), hidden(theirs, ids))
    near(ours(model, ids, keep)[keep], hidden(theirs, ids, keep)[keep])
    with pytest.raises(ContextError, match="12 tokens were given; this model has positions for 11"):
        ours(model, tokens(1, 12))


def test_positions_given_for_left_padding_are_those_of_the_reference(tmp_path: Path) -> None:
    """The reference numbers what is not padding; here the caller does."""
    theirs, model = opened(case_of("roberta"), tmp_path)
    keep = right_padding([9, 4], 9).flip(1)
    ids = tokens(2, 9).masked_fill(~keep, 1)
    positions = (keep.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        near(model(Batch(ids, keep=keep, positions=positions))[keep], hidden(theirs, ids, keep)[keep])


@pytest.mark.parametrize("length", [4, 5, 9, 40, 130])
@pytest.mark.parametrize("local", [4, 7])
def test_windows_of_modernbert(length: int, local: int, tmp_path: Path) -> None:
    """Up to, at and far beyond the window, also past max_position_embeddings; odd numbers are halved downwards."""
    theirs, model = opened(case_of("modernbert", local_attention=local), tmp_path)
    ids, keep = tokens(2, length), right_padding([length, length // 2 + 1], length)
    near(ours(model, ids), hidden(theirs, ids), 2e-5)
    near(ours(model, ids, keep)[keep], hidden(theirs, ids, keep)[keep], 2e-5)


OLD_MODERNBERT = {"layer_types": None, "rope_parameters": None, "global_rope_theta": 700.0, "local_rope_theta": 30.0}


def test_older_fields_of_modernbert(tmp_path: Path) -> None:
    new = case_of(
        "modernbert",
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 700.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 30.0},
        },
    )
    assert case_of("modernbert", **OLD_MODERNBERT).model == new.model
    _, model = opened(new, tmp_path)
    assert model.config == new.model


def test_layers_of_albert_are_shared_in_groups(tmp_path: Path) -> None:
    case = case_of("albert", num_hidden_layers=7, num_hidden_groups=3)
    theirs, model = opened(case, tmp_path)
    assert case.model.encoder is not None and len(case.model.encoder.layers) == 3
    assert case.model.encoder.order == (0, 0, 0, 1, 1, 2, 2)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in theirs.parameters())
    trace: list[Tensor] = []
    with torch.no_grad():
        model(Batch(tokens(1, 5)), AttnContext(trace=trace))
    assert len(trace) == 7


# --- old files


def respell(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], **config: Any) -> None:
    import json

    file = path / "model.safetensors"
    save_file({name: t.clone() for name, t in change(load_file(file)).items()}, file)
    if config:
        table = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({k: v for k, v in (table | config).items() if v is not None}))


TIED = {
    "roberta": ("lm_head.decoder", "lm_head.bias", "roberta"),
    "xlm-roberta": ("lm_head.decoder", "lm_head.bias", "roberta"),
    "distilbert": ("vocab_projector", "", "distilbert"),
    "albert": ("predictions.decoder", "predictions.bias", "albert"),
    "deberta-v2": ("cls.predictions.decoder", "cls.predictions.bias", "deberta"),
    "mpnet": ("lm_head.decoder", "lm_head.bias", "mpnet"),
}


@pytest.mark.parametrize("name", sorted(TIED))
def test_norms_of_old_names_buffers_and_repeated_tables_open(name: str, tmp_path: Path) -> None:
    decoder, bias, prefix = TIED[name]
    theirs, _ = opened(case_of(name), tmp_path)

    def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        old = {
            key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t for key, t in tensors.items()
        }
        old[f"{prefix}.embeddings.position_ids"] = torch.arange(34)[None]
        old[f"{decoder}.weight"] = tensors[f"{prefix}.embeddings.word_embeddings.weight"]
        if bias:
            old[f"{decoder}.bias"] = tensors[bias]
        return old

    respell(tmp_path, older)
    folder = ModelFolder.open(tmp_path)
    assert f"{prefix}.embeddings.position_ids" in folder.ignored and f"{decoder}.weight" in folder.ignored
    ids = tokens(2, 9)
    with torch.no_grad():
        model = folder.build()
        near(model.head(model(Batch(ids))), theirs(ids).logits, 5e-5)

    respell(tmp_path, lambda tensors: tensors | {f"{decoder}.weight": tensors[f"{decoder}.weight"] * 2})
    with pytest.raises(WeightsError, match=rf"{decoder}\.weight must repeat {prefix}\.embeddings"):
        ModelFolder.open(tmp_path)


def test_the_files_of_microsoft_open_with_their_own_names(tmp_path: Path) -> None:
    """DeBERTa v3: no `architectures`, no `legacy`, the head as lm_predictions, a discriminator, positions that are not added."""
    theirs, _ = opened(case_of("deberta-v2", legacy=False), tmp_path)

    def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        more = {"mask_predictions.dense.weight": torch.zeros(3, 3), "deberta.embeddings.position_embeddings.weight": torch.zeros(64, 32)}
        return tensors | more

    respell(tmp_path, older, architectures=None, legacy=None, pos_att_type="p2c|c2p", max_relative_positions=-1)
    folder = ModelFolder.open(tmp_path)
    assert sorted(folder.ignored) == ["deberta.embeddings.position_embeddings.weight", "mask_predictions.dense.weight"]
    ids = tokens(2, 9)
    model = folder.build()
    with torch.no_grad():
        near(model.head(model(Batch(ids))), theirs(ids).logits, 5e-5)
    # a config that does not say how it is spelled is written as the reference reads it
    saved = load_file(ModelFolder.save(tmp_path / "again", model, folder.config).path / "model.safetensors")
    assert "cls.predictions.bias" in saved and not any(name.startswith("lm_predictions") for name in saved)


def test_a_pooler_that_no_head_reads_is_said(tmp_path: Path) -> None:
    opened(case_of("roberta", architectures=["RobertaForTokenClassification"]), tmp_path)
    respell(tmp_path, lambda t: t | {"roberta.pooler.dense.weight": torch.zeros(32, 32), "roberta.pooler.dense.bias": torch.zeros(32)})
    assert sorted(ModelFolder.open(tmp_path).ignored) == ["roberta.pooler.dense.bias", "roberta.pooler.dense.weight"]


@pytest.mark.parametrize("name", ["roberta", "distilbert", "albert", "deberta-v2", "mpnet", "modernbert"])
def test_a_base_class_whose_file_has_a_word_head_keeps_it(name: str, tmp_path: Path) -> None:
    _, model = opened(case_of(name), tmp_path)
    respell(tmp_path, lambda tensors: tensors, architectures=list(FAMILIES[name].bare))
    folder = ModelFolder.open(tmp_path)
    assert folder.model_config == model.config


# --- refusals


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("roberta", {"is_decoder": True}, "is_decoder is True"),
        ("roberta", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("xlm-roberta", {"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
        ("roberta", {"max_position_embeddings": 2}, "max_position_embeddings is 2; it must be above pad_token_id"),
        ("roberta", {"architectures": ["RobertaForMultipleChoice"]}, "RobertaForMultipleChoice.*reads RobertaModel, RobertaForMaskedLM"),
        ("xlm-roberta", {"architectures": ["RobertaModel"]}, "reads XLMRobertaModel"),
        ("roberta", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ("distilbert", {"activation": "selu"}, "activation is 'selu'"),
        ("distilbert", {"dim": 33}, "33 cannot be cut into 4 heads"),
        ("bert", {"pruned_heads": {"0": [1]}}, "pruned_heads is"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is 2"),
        ("albert", {"architectures": ["AlbertForPreTraining"], "num_labels": 3}, "3 labels; AlbertForPreTraining needs 2"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets is not 32"),
        ("mpnet", {"architectures": ["MPNetForQuestionAnswering"], "num_labels": 3}, "3 labels; MPNetForQuestionAnswering needs 2"),
        ("deberta-v2", {"embedding_size": 16}, "embedding_size is 16, but hidden_size is 32"),
        ("deberta-v2", {"pooler_hidden_size": 16}, "pooler_hidden_size is 16"),
        ("deberta-v2", {"attention_head_size": 16}, "attention_head_size is 16"),
        ("deberta-v2", {"pos_att_type": ["p2p"]}, "pos_att_type has 'p2p'. Allowed: c2p, p2c"),
        ("deberta-v2", {"norm_rel_ebd": "rms"}, "norm_rel_ebd is 'rms'"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size is 4"),
        ("deberta-v2", {"conv_kernel_size": 3, "conv_groups": 5}, "conv_groups 5"),
        ("deberta-v2", {"position_buckets": 200}, "position_buckets is 200; for positions up to 64 it must be below 126"),
        ("deberta-v2", {"max_relative_positions": "far"}, "max_relative_positions is 'far'"),
        ("modernbert", {"decoder_bias": False}, "decoder_bias is False"),
        ("modernbert", {"classifier_bias": True}, "classifier_bias is True and norm_bias False"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling is 'max'"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types has 1 entries; allowed are 3"),
        ("modernbert", {"layer_types": ["chunked"] * 3}, "layer_types has 'chunked'"),
        ("modernbert", {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}}, r"rope_parameters\.full_attention"),
        ("modernbert", {"local_rope_theta": None}, "local_rope_theta is null"),
        ("modernbert", {"position_embedding_type": "sans_pos"}, "position_embedding_type is 'sans_pos'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(name: str, change: dict[str, Any], message: str) -> None:
    family = FAMILIES[name]
    with pytest.raises(ModelError, match=message):
        family.build(family.tiny | change)
