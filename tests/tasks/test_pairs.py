"""What follows what, as the reference's head says; blanks of several texts; groups as good as scikit-learn's; how two texts are joined."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sklearn.cluster
import tokenizers
import torch
import transformers
from tokenizers import processors

import quire
from quire.binding.contract import paired
from quire.errors import ContextError, DataError, ModelError, RecipeError
from quire.tasks.pairs import groups
from tests.tasks.readers import TEXTS, words, write

PAIRS = [("The quick brown fox", "jumps over the lazy dog."), ("x", "y"), (TEXTS[1], "no"), ("", "")]


@pytest.mark.parametrize("head", ["PreTraining", "NextSentencePrediction"])
def test_what_follows_what_is_the_references(tmp_path, head):
    model = quire.load(write(tmp_path, head))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs = getattr(transformers, f"BertFor{head}").from_pretrained(tmp_path).eval()
    expected = []
    for first, second in PAIRS[:3]:
        with torch.no_grad():
            out = theirs(**tokenizer(first, second, return_tensors="pt"))
        logits = out.seq_relationship_logits if head == "PreTraining" else out.logits
        expected.append(float(logits.softmax(-1)[0, 0]))
    assert model.next_sentence(PAIRS[:3]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ContextError, match=r"text 0 has \d+ tokens"):
        model.next_sentence([(TEXTS[0], TEXTS[2])])
    cut: list[int] = []
    assert len(model.next_sentence([(TEXTS[0], TEXTS[2])], long="cut", cut=cut)) == 1 and cut[0] > 0


def test_a_model_without_the_head_says_so(tmp_path):
    model = quire.load(write(tmp_path, "MaskedLM"))
    with pytest.raises(ModelError, match="was not trained to say whether a sentence follows another"):
        model.next_sentence(PAIRS)


def test_blanks_of_several_texts_are_those_of_each(tmp_path):
    model = quire.load(write(tmp_path, "MaskedLM"))
    texts = ["The ___ fox", "___ and ___ in Berlin on a very long Tuesday", "The lazy ___"]
    done: list[int] = []
    found = model.fill(texts, top=3, progress=done.append)
    assert [len(blanks) for blanks in found] == [1, 2, 1] and done[-1] == 3
    for text, blanks in zip(texts, found):
        alone = model.fill(text, top=3)
        assert [[token.text for token in blank] for blank in blanks] == [[token.text for token in blank] for blank in alone]
        assert [token.logprob for token in blanks[0]] == pytest.approx([token.logprob for token in alone[0]], abs=1e-4)
    with pytest.raises(DataError, match="the text has no blank"):
        model.fill(["The ___ fox", "no blank"])


def test_groups_are_as_tight_as_scikit_learns():
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(5, 16))
    vectors = (centres[draw.integers(0, 5, 300)] + draw.normal(size=(300, 16)) * 0.4).astype(np.float32)

    def spread(numbers):
        return sum(((vectors[numbers == group] - vectors[numbers == group].mean(0)) ** 2).sum() for group in set(numbers.tolist()))

    theirs = sklearn.cluster.KMeans(5, n_init=10, random_state=0).fit_predict(vectors)
    found = np.array(groups(vectors, 5))
    assert spread(found) < 1.01 * spread(theirs) and groups(vectors, 5) == found.tolist() and found[0] == 0
    assert groups(vectors, 5, seed=1) == found.tolist(), "well separated groups do not depend on the seed"
    same = np.ones((6, 4), dtype=np.float32)
    assert groups(same, 1) == [0] * 6 and groups(same[:1], 1) == [0]
    with pytest.raises(RecipeError, match="count is 3; 1 different vectors can be put into 1 to 1 groups"):
        groups(same, 3)
    assert sorted(groups(np.eye(4, dtype=np.float32), 4)) == [0, 1, 2, 3]
    with pytest.raises(RecipeError, match="count is 0; 4 different vectors can be put into 1 to 4 groups"):
        groups(np.eye(4, dtype=np.float32), 0)


TEMPLATE = processors.TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)


@pytest.mark.parametrize(
    "kind, post",
    [
        ("bert", processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))),
        ("bert", TEMPLATE),
        ("roberta", processors.RobertaProcessing(("</s>", 2), ("<s>", 0))),
        ("roberta", processors.Sequence([processors.ByteLevel(), TEMPLATE])),
        ("roberta", processors.ByteLevel()),
    ],
)
def test_two_texts_are_joined_as_the_library_joins_them(tmp_path, kind, post):
    folder = write(tmp_path, "MaskedLM", kind)
    made = tokenizers.Tokenizer.from_str(words(kind).to_str())
    made.post_processor = post
    made.save(str(folder / "tokenizer.json"))
    contract = quire.Contract.open(folder)
    for first, second in PAIRS:
        row = made.encode(first, second)
        ids, types = contract.pair(first, second)
        assert ids == row.ids
        # without special ids around them the library does not say which text is the second
        assert types == row.type_ids or post.__class__ is processors.ByteLevel


@pytest.mark.parametrize(
    "post",
    [
        {"type": "Strange"},
        {"type": "TemplateProcessing", "single": [], "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {}},
        {"type": "TemplateProcessing", "single": []},
        {"type": "Sequence", "processors": [json.loads(TEMPLATE.__getstate__())] * 2},
        {"type": "BertProcessing", "cls": ["[CLS]"]},
    ],
)
def test_a_post_processor_that_is_not_understood_is_refused(post):
    with pytest.raises(ModelError, match="how its post_processor .* joins two texts is not understood"):
        paired(post)
