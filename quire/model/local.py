"""What the three kinds of opened models share: their folder, contract, binding, defaults; rows as tensors; and what reads a text whole:
labels of texts, of tokens, where an answer stands, and vectors. Each is a task of `tasks`, and needs the head or the stack for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..binding import Binding, Contract
from ..errors import DataError, ModelError, RecipeError, VerbError, nearest
from ..families.folder import read_config
from ..nn.config import LabelHead, ModelConfig
from ..nn.transformer import Transformer
from ..tasks import answer, classify, embed, pairs, tag
from ..tasks.classify import Function
from ..tasks.embed import Kind
from ..tasks.reading import Long
from ..tasks.sentence import Sentence
from ..tasks.sentence import read as read_sentence
from ..text.library import check_text, texts_of
from ..types import Answer, Entity, Sampling, Text
from .saving import Stored, save

TOKENS_A_FORWARD = 8192  # of scoring and hidden states, padding included
_USUAL_SHARE = 0.75  # of a padded table that has tokens: 0.98 for Qwen2 and Phi-2, 0.999 for T5
Floats = npt.NDArray[np.float32]
Progress = Callable[[int], None] | None  # is called with the number of rows done


class Local:
    """What the three kinds share."""

    def __init__(
        self,
        folder: Path,
        model: Transformer,
        contract: Contract,
        binding: Binding,
        changed: Mapping[str, Any] | None = None,
        adapter: Path | str | None = None,
    ) -> None:
        """changed: fields of config.json that describe the model instead of the folder's own: those of the head of its adapter."""
        self.folder, self.changed = folder, dict(changed or {})
        self.called = str(folder) if adapter is None else f"{folder} with the adapter {adapter}"  # in messages
        self.model = model
        self.contract = contract
        self.binding = binding
        self.identity: str = binding.id
        check_sizes(folder, contract, self.config.vocab)

    if not TYPE_CHECKING:  # mypy is to go on knowing which methods there are

        def __getattr__(self, name: str) -> Any:
            """A method of another kind of model is refused by saying who has it, and what this one can do."""
            from . import Decoder, Encoder, Seq2Seq

            others = [kind.__name__ for kind in (Decoder, Encoder, Seq2Seq) if callable(getattr(kind, name, None))]
            if name.startswith("_") or not others:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise VerbError(
                f"{self.called} opens as {article(type(self).__name__)}, which does not {name}; {article(' or '.join(others))} does. "
                f"It has: {', '.join(verbs(type(self)))}."
            )

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def defaults(self) -> Sampling:
        """How to sample when nothing is said: what the folder's generation_config.json recommends, else `Sampling()`."""
        given = self.contract.defaults
        if given.get("do_sample") is False:
            return Sampling(temperature=0.0)
        same = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")
        chosen: dict[str, Any] = {name: given[name] for name in same if given.get("do_sample") and isinstance(given.get(name), int | float)}
        if isinstance(given.get("max_new_tokens"), int):
            chosen["max_tokens"] = given["max_new_tokens"]
        return Sampling(**chosen)

    def _how(self, given: Sampling | None, more: Mapping[str, Any]) -> Sampling:
        """`given`, or the defaults, with some fields replaced. Raises RecipeError for a name that is no field."""
        if not isinstance(given, Sampling | None):
            raise RecipeError(f"sampling is {str(given)[:80]}; allowed: a Sampling, or None. Beams are for translate and summarize.")
        known = [field.name for field in fields(Sampling)]
        for name in more:
            if name not in known:
                raise RecipeError(f"there is no {name!r} in Sampling; allowed: {', '.join(known)}.{nearest(name, known)}")
        return replace(given or self.defaults, **more)

    def __repr__(self) -> str:
        size = f"{self.config.parameters():,} parameters, context {self.config.context}"
        return f"{type(self).__name__}({str(self.folder)!r}, {size}, {self.identity[:12]})"

    def tensor(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Rows padded on the right: tokens (B, T), keep (B, T) or None where all are of one length."""
        device, longest = self.model.embed.weight.device, max(map(len, rows))
        tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
        if all(len(row) == longest for row in rows):
            return tokens, None
        return tokens, torch.tensor([[place < len(row) for place in range(longest)] for row in rows], device=device)

    def save(self, folder: Path | str, dtype: Stored | None = None) -> Path:
        """Writes this model as a new folder, which Quire, transformers and, for a sentence encoder, sentence-transformers open.

        dtype: of the weights; None is what they have in memory. Raises StorageError for a folder that holds something already.
        """
        lineage = {**self.binding.recorded.get("lineage", {}), "parent": self.identity}
        save(folder, self.folder, self.changed, self.model, self.contract, lineage, dtype)
        return Path(folder)

    # -- a model with a label head -----------------------------------------------------------------------------------------------

    def _labels(self, over: Literal["row", "token", "span"]) -> dict[int, str]:
        """The names of the head's labels. Raises ModelError when the head is not one over rows, tokens or spans."""
        head = self.config.head
        if not isinstance(head, LabelHead) or head.over != over:
            what = {"row": "labels of texts", "token": "labels of tokens", "span": "answers in a text", "next": "what follows what"}
            verb = {"row": "classify", "token": "tag", "span": "answer", "next": "next_sentence"}
            has = f"gives {what[head.over]} ({verb[head.over]})" if isinstance(head, LabelHead) else "gives no labels"
            kind = {"row": "SequenceClassification", "token": "TokenClassification", "span": "QuestionAnswering"}[over]
            raise ModelError(f"{self.called} {has}; this needs {what[over]}: a model whose architecture ends in For{kind}.")
        return classify.names(self._settings, head.labels)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        return read_config(self.folder) | self.changed

    @property
    def labels(self) -> dict[int, str]:
        """{number: name} of what `classify` or `tag` tells apart. Raises ModelError for a model without a label head."""
        head = self.config.head
        return self._labels("token" if isinstance(head, LabelHead) and head.over == "token" else "row")

    def classify(
        self,
        texts: Sequence[Text],
        function: Function | None = None,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[dict[str, float]]:
        """{label: score} of each text or pair of texts, best first.

        function: makes scores of logits; None is what the folder's config.json says. long, cut: as in `embed`. Raises ModelError for a
        model without a head for it, ContextError for a text that is too long.
        """
        labels, texts = self._labels("row"), texts_of(texts, "texts or pairs")
        return classify.classify(self.model, self.contract, texts, labels, function or self.function, long, cut, progress)

    @property
    def function(self) -> Function:
        """What makes scores of logits in `classify`, as the folder's config.json says."""
        return classify.function_of(self._settings, len(self._labels("row")))

    def rerank(
        self,
        query: str,
        texts: Sequence[str],
        label: str | None = None,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[tuple[int, float]]:
        """(number of the text, score) of each text, that which suits the query best first.

        A model with a label head reads the query with each text; its score is that of its one label, or of `label` where it has several.
        Any other compares vectors (`similar`). long, cut: as there, or, of pairs, in `embed`. Raises RecipeError when no label is clear,
        or one is named where there are none.
        """
        texts = texts_of(texts)
        if isinstance(self.config.head, LabelHead):
            label = classify.one_of(self._labels("row"), label)
            scores = [row[label] for row in self.classify([(query, text) for text in texts], long=long, cut=cut, progress=progress)]
        else:
            classify.none_of(label)
            scores = self.similar([query], texts, long=long, cut=cut, progress=progress)[0].tolist() if texts else []
        return classify.ranked(scores)

    def tag(
        self,
        texts: Sequence[str],
        aggregation: str | None = None,
        *,
        stride: int | None = None,
        ignore: Sequence[str] = ("O",),
        progress: Progress = None,
    ) -> list[list[Entity]]:
        """The stretches of each text that have a label, in order; `tasks.tag` says what the aggregations (none, simple, first, average,
        max, words) do. None is what the folder says: words for a model that was tuned here, else simple. stride: a text that is too long is
        read in windows that overlap by so many tokens; None refuses it (ContextError), unless the model was trained with windows and its
        folder says so: then those.
        """
        labels = self._labels("token")
        return tag.tag(self.model, self.contract, texts_of(texts), labels, aggregation or self.aggregation, stride, ignore, progress)

    @property
    def aggregation(self) -> str:
        """How tokens become stretches in `tag`, as the folder's config.json says."""
        return tag.aggregation_of(self._settings)

    def answer(
        self,
        pairs: Sequence[tuple[str, str]],
        top: int = 1,
        length: int | None = None,
        stride: int | None = None,
        longest: int | None = None,
        no_answer: bool = False,
        *,
        progress: Progress = None,
    ) -> list[list[Answer]]:
        """Where in each (question, context) the `top` best answers stand; `tasks.answer` says what the numbers mean.

        How sure "no answer" must be is what the folder records (0 where it says nothing), and so is how many tokens an answer has at most
        where longest is None (else 15).
        """
        self._labels("span")
        threshold = answer.threshold_of(self._settings)
        longest = answer.longest_of(self._settings) if longest is None else longest
        texts = texts_of(pairs, "pairs")
        return answer.answer(self.model, self.contract, texts, top, length, stride, longest, no_answer, progress, threshold)

    # -- vectors -----------------------------------------------------------------------------------------------------------------

    @cached_property
    def sentence(self) -> Sentence:
        """How this model makes vectors of texts, as its folder says. Raises ModelError for a folder that is not understood."""
        return read_sentence(self.folder, self.config.width, self.contract.tokenizer.settings())

    def embed(
        self,
        texts: Sequence[str],
        kind: Kind | None = None,
        pool: str | None = None,
        normalize: bool | None = None,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> Floats:
        """A vector of each text, (N, D) in fp32.

        kind: "query" or "document", where the folder has a prompt for it. pool (cls, mean, max, last, mean-sqrt, weighted) and normalize
        are what the folder says unless given. long: a text that is too long is refused ("error", a ContextError), or its beginning is read
        ("cut"), or its beginning and end ("head-tail"); None is as the model was trained, where its folder says how, else "error". `cut`
        receives how many tokens of each were left out; without it a warning tells of those that nobody asked to leave out.
        """
        how = embed.asked(self.sentence, pool, normalize)
        return embed.embed(self.model, self.contract, how, texts_of(texts), kind, long, cut, progress)

    def similar(
        self,
        queries: Sequence[str],
        texts: Sequence[str],
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> Floats:
        """How near each text is to each query, (queries, texts): the cosine of their vectors, or their product where the folder says so.

        long, cut: as in `embed`, of the queries and then of the texts.
        """
        queries, texts = texts_of(queries), texts_of(texts)
        done = len(queries)
        unit = True if self.sentence.similarity == "cosine" else None
        asked = self.embed(queries, "query", normalize=unit, long=long, cut=cut)
        later = None if progress is None else lambda count: progress(done + count)
        return asked @ self.embed(texts, "document", normalize=unit, long=long, cut=cut, progress=later).T

    def cluster(
        self,
        texts: Sequence[str],
        count: int,
        seed: int = 0,
        *,
        long: Long | None = None,
        cut: list[int] | None = None,
        progress: Progress = None,
    ) -> list[int]:
        """The number of the group, 0 to count - 1, of each text: k-means over unit vectors. Equal seeds give equal groups.

        long, cut: as in `embed`. Raises RecipeError when there are fewer different texts than groups.
        """
        texts = texts_of(texts)
        pairs.check_groups(len(set(texts)), count)
        return pairs.groups(self.embed(texts, normalize=True, long=long, cut=cut, progress=progress), count, seed)


def verbs(kind: type) -> list[str]:
    """The methods of a kind of model that take texts and give records."""
    names = (name for name in dir(kind) if not name.startswith("_") and name not in ("save", "tensor"))
    return sorted(name for name in names if callable(getattr(kind, name)))


def article(word: str) -> str:
    return f"{'an' if word[0] in 'AEIOU' else 'a'} {word}"


def check_sizes(folder: Path, contract: Contract, rows: int) -> None:
    """Raises ModelError for more tokens than rows, warns of far fewer: the tokenizer is then that of another model.

    A special token that nothing writes may lie beyond the rows: no text becomes one (Gemma 3 1B has the larger ones' mark of an image).
    """
    tokenizer, tokens = contract.tokenizer, contract.tokenizer.vocab_size
    said = f"{folder}: the tokenizer has {tokens:,} tokens, the model {rows:,} rows of embeddings"
    beyond = {token for token in tokenizer.definition.spellings if token >= rows}
    written = {*contract.before, *contract.after, tokenizer.bos, tokenizer.mask, contract.decoder_start} if beyond else set()
    if any(token in written or not tokenizer.is_special(token) for token in beyond):
        raise ModelError(f"{said}, so it has no vector for some of them. One of the two belongs to another model.")
    if tokens < _USUAL_SHARE * rows:
        warnings.warn(f"{said}. Tables are padded, but not by so much: is it the tokenizer of this model?", RuntimeWarning, stacklevel=4)


def split_blanks(text: str, blank: str) -> list[str]:
    check_text(text)
    parts = text.split(blank) if blank else [text]
    if len(parts) == 1:
        raise DataError(f"the text has no blank: write {blank or '___'} where a word is to be filled in.")
    return parts
