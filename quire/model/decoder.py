"""An opened decoder: it continues text, answers in conversations, scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

from ..decode.loop import complete
from ..engine.answers import FORMS, Asked, form, tools
from ..engine.engine import Engine
from ..engine.tools import ToolChoice, with_objects
from ..errors import DataError, ModelError
from ..text.library import messages_of, texts_of
from ..types import Chunk, Completion, Message, Sampling
from .writer import Writer

Tools = Sequence[dict[str, Any]]


class Decoder(Writer):
    """A model that continues text (GPT-2, LLaMA ...)."""

    @cached_property
    def engine(self) -> Engine:
        """Runs this model's requests, several at once, and remembers what texts begin with."""
        return Engine(self)

    def _chunks(
        self, ids: Sequence[int], source: Sequence[int] | None, sampling: Sampling | None, stop_ids: Sequence[int] = ()
    ) -> Iterator[Chunk]:
        if self.alone:
            return super()._chunks(ids, source, sampling, stop_ids)
        return self.engine.stream(self.engine.request(ids, sampling, stop_ids=stop_ids))

    @property
    def alone(self) -> bool:
        """Whether an adapter that no engine holds is on this model: then texts are written one by one, in the plain loop."""
        return self.model.front is not None and not self.model.front.pages

    def _check_alone(self, asked: bool) -> None:
        if self.alone and asked:
            raise ModelError("with a prefix (prefix tuning) a model writes plain answers, one by one: no schema, regex, tools or n.")

    @overload
    def generate(self, prompts: str, sampling: Sampling | None = None, **more: Any) -> Completion: ...
    @overload
    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None, **more: Any) -> list[Completion]: ...
    def generate(self, prompts: str | Sequence[str], sampling: Sampling | None = None, **more: Any) -> Completion | list[Completion]:
        """Continues a text, or each of several. Every one draws from a generator of its own, so what one draws does not
        depend on the others.

        sampling: None takes `defaults`; single fields of it can be given by name (max_tokens=20), and also:
        n: so many answers to each prompt, one list of all, those of a prompt together, with seeds that count up; it is computed once.
        schema (a dictionary or a Pydantic class), regex, choice (a list of texts) or grammar: the form that answers must have. Then
        `parsed` holds the value, and `valid` says whether the answer is whole.

        Raises ContextError for a prompt that is too long, RecipeError for a value outside its range or a form that cannot be.
        """
        n, forms = more.pop("n", None), _forms(more)
        sampling = self._how(sampling, more)
        self._check_alone(bool(forms) or n is not None)
        if self.alone:
            return super().generate(prompts, sampling)
        asked = form(self.contract, self.config.vocab, forms)
        starts = [self.contract.prompt(prompt) for prompt in ([prompts] if isinstance(prompts, str) else texts_of(prompts))]
        answers = [*map(asked.read, self.engine.generate(starts, sampling, n=1 if n is None else n, constraint=asked.constraint))]
        return answers[0] if isinstance(prompts, str) and n is None else answers

    def stream(self, prompt: str, sampling: Sampling | None = None, **more: Any) -> Iterator[Chunk]:
        """A chunk a token; its text may be empty while a character or a stop string is not decided. The last one says why it ended.
        sampling, more: as in `generate`, without n."""
        forms = _forms(more)
        sampling = self._how(sampling, more)
        asked = form(self.contract, self.config.vocab, forms)
        return self.said(self.contract.prompt(prompt), sampling, asked)

    def said(self, ids: Sequence[int], sampling: Sampling, asked: Asked, stop_ids: Sequence[int] = ()) -> Iterator[Chunk]:
        """What is written on from `ids`, as it comes; refused before the first chunk where it cannot be."""
        constraint = asked.constraint()
        if self.alone:
            self._check_alone(constraint is not None)
            return self._chunks(ids, None, sampling, stop_ids)
        request = self.engine.request(ids, sampling, constraint=constraint, stop_ids=stop_ids)
        return asked.stream(self.engine.stream(request))

    def _start(self, prompt: str) -> tuple[list[int], list[int] | None]:
        return self.contract.prompt(prompt), None

    @property
    def chats(self) -> bool:
        """Whether this model was made to answer. A base model was not, though its tokenizer may have reserved the marks of turns."""
        task = self.binding.recorded.get("lineage", {}).get("task")
        return self.contract.template is not None and task != "causal"

    def chat_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, continued: bool = False) -> list[int]:
        """The conversation as the model reads it, with the beginning of the answer. Raises ModelError for a base model.

        continued: the last message is that beginning itself. Raises DataError where the template does not let an answer begin with a text.
        """
        template = self.contract.template
        if template is None:
            raise ModelError(
                f"{self.folder} is a base model: it has no chat template, so it does not know turns, only text to go on with. "
                "Use generate or stream, or `quire generate`; a model fine-tuned on conversations has a template."
            )
        turns = with_objects(messages_of(messages))
        if continued:
            return template.continued(self.contract.tokenizer, turns, list(tools))
        return list(template.encode(self.contract.tokenizer, turns, list(tools), add_generation_prompt=True).ids)

    def chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        tools: Tools = (),
        *,
        tool_choice: ToolChoice = "auto",
        parallel: bool = True,
        **more: Any,
    ) -> Completion:
        """The answer to a conversation (messages may be dictionaries with role and content); sampling and more as in `generate`, without n.

        tools, tool_choice: as OpenAI's API has them; parallel: several calls in one answer. `tool_calls` then holds the whole calls, `text`
        what is said beside them. Raises ModelError for a base model, ContextError when the conversation is too long, RecipeError for tools
        and forms that cannot be.
        """
        ids, how, asked = self._turn(messages, sampling, tools, tool_choice, parallel, more)
        if self.alone:
            self._check_alone(asked.constraint() is not None)
            return complete(self._chunks(ids, None, how, self.contract.turn_end), len(ids))
        [answer] = self.engine.generate([ids], how, constraint=asked.constraint, stop_ids=self.contract.turn_end)
        return asked.read(answer)

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None = None,
        tools: Tools = (),
        *,
        tool_choice: ToolChoice = "auto",
        parallel: bool = True,
        **more: Any,
    ) -> Iterator[Chunk]:
        """As `chat`, piece by piece; pieces of tool calls are in `calls` of the chunks."""
        ids, how, asked = self._turn(messages, sampling, tools, tool_choice, parallel, more)
        return self.said(ids, how, asked, self.contract.turn_end)

    def _turn(
        self,
        messages: Sequence[Message],
        sampling: Sampling | None,
        given: Tools,
        choice: ToolChoice,
        parallel: bool,
        more: dict[str, Any],
    ) -> tuple[list[int], Sampling, Asked]:
        """The conversation as ids, how to go on with it, and what the answer must be."""
        forms = _forms(more)
        how = self._how(sampling, more)
        shown = [] if choice == "none" else given
        ids = self.chat_ids(messages, shown)
        asked = tools(self.contract, self.config.vocab, shown, choice, parallel, forms)
        return ids + (asked.calling.prefix if asked.calling is not None else []), how, asked

    def _row(self, context: str, continuation: str) -> tuple[list[int], int, list[str], list[int] | None]:
        text = context + continuation
        pieces = self.contract.tokenizer.pieces(text)
        known = sum(1 for _, end in pieces.offsets if end <= len(context)) if context else 0
        before = list(self.contract.before)
        if not before and known == 0 and self.contract.tokenizer.bos is not None:
            before = [self.contract.tokenizer.bos]
        if continuation and len(before) + known == 0:
            raise DataError("the context is empty and this tokenizer has no begin-of-text token: nothing stands before the first token.")
        texts = [text[start:end] for start, end in pieces.offsets[known:]]
        return [*before, *pieces.ids], len(before) + known, texts, None


def _forms(more: dict[str, Any]) -> dict[str, Any]:
    """Takes the forms out of what was given by name."""
    return {name: more.pop(name) for name in FORMS if name in more}
