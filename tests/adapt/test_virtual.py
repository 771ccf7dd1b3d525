"""Soft prompts and prefixes on models that give labels or vectors, equal to PEFT's, both ways."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quire.adapt import activate, attach_prefix, attach_prompt, detach, open_prompt, save_prompt, trainable
from quire.adapt.surgery import trained
from quire.errors import ModelError, WeightsError
from quire.families.decoders import LABELS
from quire.nn.attention import AttnContext
from quire.tasks.embed import pooled
from quire.tasks.sentence import Sentence
from tests.adapt.oracle import Case, batch_for, case_of, disturb, saved_base, with_peft
from tests.adapt.virtual import WAYS, close, rows, said
from tests.small import write_model


def labels(family: str, architecture: str, **more: Any) -> Case:
    return case_of(family, architectures=[architecture], **({} if architecture.endswith("Answering") else LABELS), **more)


CASES = {
    "bert-texts": labels("bert", "BertForSequenceClassification"),
    "bert-tokens": labels("bert", "BertForTokenClassification"),
    "bert-answers": labels("bert", "BertForQuestionAnswering"),
    "bert-vectors": case_of("bert", architectures=["BertModel"]),
    "roberta-texts": labels("roberta", "RobertaForSequenceClassification"),
    "llama-texts": labels("llama", "LlamaForSequenceClassification"),
    "llama-vectors": case_of("llama", architectures=["LlamaModel"]),
    "distilbert-texts": labels("distilbert", "DistilBertForSequenceClassification"),
    "mpnet-tokens": labels("mpnet", "MPNetForTokenClassification"),
    "modernbert-texts": labels("modernbert", "ModernBertForSequenceClassification", classifier_pooling="mean"),
}
PREFIXED = ("bert-texts", "bert-tokens", "bert-answers", "bert-vectors", "roberta-texts", "llama-texts", "llama-vectors")
TASKS = {"texts": "SEQ_CLS", "tokens": "TOKEN_CLS", "answers": "QUESTION_ANS", "vectors": "FEATURE_EXTRACTION"}
# (way, case): a soft prompt for every case, a prefix for those whose layers PEFT can give one
BOTH = [*(("prompt", name) for name in CASES), *(("prefix", name) for name in PREFIXED)]


@pytest.mark.parametrize(("way", "name"), BOTH)
def test_peft_opens_what_we_save(way: str, name: str, tmp_path: Path) -> None:
    attach, save, open_one = WAYS[way]
    _, opened = saved_base(CASES[name], tmp_path / "base")
    model = opened.build()
    attach(model, 5, opened, hidden=16, generator=torch.Generator().manual_seed(1))
    disturb(model)
    save(tmp_path / "adapter", model, opened)
    theirs = with_peft(tmp_path / "base", tmp_path / "adapter", CASES[name])
    close(CASES[name], theirs, model)
    again = opened.build()
    assert "on trust" in open_one(tmp_path / "adapter", again, opened)
    close(CASES[name], theirs, again)


@pytest.mark.parametrize(
    ("way", "kind", "name"),
    [
        *(("prompt", "PromptTuningConfig", name) for name in CASES),
        *(("prompt", "PromptEncoderConfig", name) for name in ("bert-texts", "llama-texts")),
        *(("prefix", "PrefixTuningConfig", name) for name in PREFIXED),
    ],
)
def test_we_open_what_peft_saves_and_train_the_same(way: str, kind: str, name: str, tmp_path: Path) -> None:
    import peft

    case = CASES[name]
    theirs, opened = saved_base(case, tmp_path / "base")
    more: dict[str, Any] = {"encoder_hidden_size": 16} if kind == "PromptEncoderConfig" else {}
    if name.startswith("distilbert"):  # PEFT does not find the sizes of a DistilBERT
        more |= {"token_dim": case.model.width, "num_layers": 2, "num_attention_heads": 4}
    task = TASKS[name.partition("-")[2]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(4)
        tuned = peft.get_peft_model(theirs, getattr(peft, kind)(task_type=task, num_virtual_tokens=5, **more)).eval()
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape))
        tuned.save_pretrained(str(tmp_path / "adapter"))
    model = opened.build()
    WAYS[way][2](tmp_path / "adapter", model, opened)
    close(case, tuned, model)
    if kind == "PromptEncoderConfig":
        return  # what its network learns is gone from the file
    wanted, found = said(case, tuned, model, padded=False)
    wanted.square().mean().backward()
    found.square().mean().backward()
    learned = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    assert trainable(model).split(" ||")[0] == f"trainable params: {sum(part.numel() for part in learned):,d}"
    assert sorted(tuple(part.shape) for part in learned) == sorted(tuple(part.shape) for part in trained(model).values())
    sums = [sorted(float(part.grad.double().square().sum()) for part in parts) for parts in (learned, trained(model).values())]
    torch.testing.assert_close(torch.tensor(sums[1]), torch.tensor(sums[0]), atol=1e-6, rtol=1e-4)


def test_answers_keep_their_token_types(tmp_path: Path) -> None:
    """PEFT's class for answers does not hand them on; the model below it, given them, says what ours does."""
    case = CASES["bert-answers"]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach_prompt(model, 5, opened)
    save_prompt(tmp_path / "adapter", model, opened)
    theirs = with_peft(tmp_path / "base", tmp_path / "adapter", case)
    batch = batch_for(case, padded=True)
    assert batch.types is not None and batch.keep is not None
    with torch.no_grad():
        vectors = torch.cat((theirs.get_prompt(3), theirs.word_embeddings(batch.tokens)), 1)
        seen, types = model.front.seen(batch.keep), nn.functional.pad(batch.types, (5, 0))
        out = theirs.base_model(inputs_embeds=vectors, attention_mask=seen.long(), token_type_ids=types)
        wanted = torch.stack((out.start_logits, out.end_logits), -1)[:, 5:]
        found = model.head(model(batch), batch.keep)
    torch.testing.assert_close(found[batch.keep], wanted[batch.keep], atol=1e-5, rtol=1e-5)


def test_vectors_of_an_encoder_decoder_are_its_encoders(tmp_path: Path) -> None:
    case = case_of("t5", architectures=["T5Model"])
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach_prompt(model, 5, opened)
    save_prompt(tmp_path / "adapter", model, opened)
    theirs = with_peft(tmp_path / "base", tmp_path / "adapter", case)
    source = batch_for(case, padded=True).source
    assert source is not None and source.keep is not None
    with torch.no_grad():
        start = torch.zeros((3, 1), dtype=torch.long)
        out = theirs(input_ids=source.tokens, attention_mask=source.keep.long(), decoder_input_ids=start)
        wanted, width = out.encoder_last_hidden_state[:, 5:], source.tokens.shape[1]
        found = model.encode(source.tokens, AttnContext(keep=source.keep))[:, -width:]
    torch.testing.assert_close(found[source.keep], wanted[source.keep], atol=1e-5, rtol=1e-5)
    mean = pooled(model, source, Sentence())
    torch.testing.assert_close(mean[1], wanted[1, :7].mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("way", ["prompt", "prefix"])
def test_padding_changes_no_label_of_a_decoder(way: str, tmp_path: Path) -> None:
    """Each row alone is what PEFT makes of it, and so is each of a padded batch, where PEFT's soft prompt reads the padding."""
    case = CASES["llama-texts"]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    WAYS[way][0](model, 5, opened)
    WAYS[way][1](tmp_path / "adapter", model, opened)
    theirs = with_peft(tmp_path / "base", tmp_path / "adapter", case)
    batch = rows(case, padded=True)
    assert batch.keep is not None
    with torch.no_grad():
        found = model.head(model(batch), batch.keep)
        for row, tokens, keep in zip(found, batch.tokens, batch.keep):
            alone = tokens[keep][None]
            wanted = theirs(input_ids=alone, attention_mask=torch.ones_like(alone)).logits[0]
            torch.testing.assert_close(row, wanted, atol=1e-5, rtol=1e-5)


def test_the_base_stays_under_it(tmp_path: Path) -> None:
    case = CASES["bert-texts"]
    _, opened = saved_base(case, tmp_path / "base")
    model, plain = opened.build(), opened.build()
    batch = rows(case, padded=True)
    with torch.no_grad():
        wanted = plain.head(plain(batch), batch.keep)
        for attach in (attach_prefix, attach_prompt):  # one after the other, on the same model
            attach(model, 3, opened)
            disturb(model)
            assert model.config.context == plain.config.context - 3
            assert not torch.allclose(model.head(model(batch), batch.keep), wanted)
            activate(model, None)
            assert torch.equal(model.head(model(batch), batch.keep), wanted)
            detach(model, "default")
            assert torch.equal(model.head(model(batch), batch.keep), wanted) and model.config == plain.config


@pytest.mark.parametrize(("task", "architecture"), [("SEQ_CLS", "SequenceClassification"), ("FEATURE_EXTRACTION", "")])
def test_what_peft_alone_wrote_brings_its_head(task: str, architecture: str, tmp_path: Path) -> None:
    """Onto a base with a head over hidden words, which PEFT's user never opened."""
    import peft
    import transformers

    import quire

    base = write_model(tmp_path / "base", "bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if architecture:
            theirs = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
        else:
            theirs = transformers.AutoModel.from_pretrained(base)
        tuned = peft.get_peft_model(theirs, peft.PromptTuningConfig(task_type=task, num_virtual_tokens=5)).eval()
        tuned.save_pretrained(str(tmp_path / "adapter"))
        model = quire.load(base, adapter=tmp_path / "adapter")
        ids = torch.tensor([model.contract.whole("def parse")])
        with torch.no_grad():
            found = tuned(input_ids=ids, attention_mask=torch.ones_like(ids))
    if architecture:
        scores = model.classify(["def parse"], "none")[0]
        torch.testing.assert_close(torch.tensor([scores[f"LABEL_{n}"] for n in range(3)]), found.logits[0], atol=1e-5, rtol=1e-5)
    else:
        own = found.last_hidden_state[:, 5:]
        torch.testing.assert_close(torch.from_numpy(model.hidden(["def parse"])[0]), own[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.from_numpy(model.embed(["def parse"], pool="mean", normalize=False)), own.mean(1))


REFUSED = {
    "words": (case_of("bert"), "prompt", "hidden words"),
    "next": (case_of("bert", architectures=["BertForNextSentencePrediction"]), "prompt", "following sentences"),
    "bart": (labels("bart", "BartForSequenceClassification"), "prompt", "encoder-decoder with a head of labels .* LoRA"),
    "bart-prefix": (labels("bart", "BartForSequenceClassification"), "prefix", "encoder-decoder with a head of labels .* LoRA"),
    "t5-vectors": (case_of("t5", architectures=["T5Model"]), "prefix", "makes no vectors here. Adapt this model with a soft prompt"),
    "distilbert": (CASES["distilbert-texts"], "prefix", "'distilbert' take no keys and values .* bert, roberta, .* soft prompt or LoRA"),
    "modernbert": (CASES["modernbert-texts"], "prefix", "'modernbert' take no keys"),
    "albert": (labels("albert", "AlbertForSequenceClassification"), "prompt", "scales or widens"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused(name: str, tmp_path: Path) -> None:
    case, way, message = REFUSED[name]
    _, opened = saved_base(case, tmp_path / "base")
    with pytest.raises(ModelError, match=message):
        WAYS[way][0](opened.build(), 3, opened)


def test_a_head_that_does_not_fit(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    case = CASES["bert-tokens"]
    _, opened = saved_base(case, tmp_path / "base")
    model = opened.build()
    attach_prompt(model, 3, opened)
    file = save_prompt(tmp_path / "adapter", model, opened) / "adapter_model.safetensors"
    good = load_file(file)
    assert set(good) == {"prompt_embeddings", "base_model.classifier.weight", "base_model.classifier.bias"}
    table = torch.zeros(96, 32)
    for change, message in (
        ({"base_model.classifier.weight": torch.zeros(7, 32)}, "the head that it holds"),
        ({"base_model.bert.embeddings.word_embeddings.weight": table}, "whole linears of a head"),
    ):
        save_file(good | change, file)
        with pytest.raises(WeightsError, match=message):
            open_prompt(tmp_path / "adapter", opened.build(), opened)
