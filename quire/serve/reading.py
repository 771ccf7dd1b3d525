"""Texts that are read whole: vectors, ranks, labels, ids.

    POST /v1/embeddings                       OpenAI's: https://platform.openai.com/docs/api-reference/embeddings
    POST /rerank, /v1/rerank, /v2/rerank      Jina's and Cohere's, as vLLM has it
    POST /classify, /tokenize, /detokenize    vLLM's: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    GET  /tokenizer_info                      vLLM's, so that lm-evaluation-harness needs no tokenizer of its own

A text that is too long is refused with the numbers, unless the model was tuned on texts that were cut and its folder says so: it then reads
them as it learned to, and `truncate: false` refuses them. Others are cut only where the request says so: `truncate` cuts to what the model
reads, `truncate_prompt_tokens` to so many tokens (-1: what the model reads), those around the text included. What was left out is told:
`truncated_tokens` of each text, and of all of them in `usage`; where nothing was, the field is not there.

`dimensions` keeps the first numbers of each vector and makes its length 1 again. A model that was trained for it (Matryoshka) has put most
of the meaning there. Of any other model the first numbers are a choice like any: the vectors still compare with each other, worse the fewer
are kept, so measure it on your own texts before you rely on it.

Rows of ids are read as they stand: nothing is put around them, and the folder's prompts are not put before them. /tokenize gives such rows.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.responses import JSONResponse, Response

from .asks import Found, Read, Tokens
from .bodies import MOST_MESSAGES, MOST_ROWS, Body, refusable
from .conversation import Turn, message
from .errors import Refused
from .front import Front
from .models import Worker

MOST_IDS = 1 << 20  # of a row
_ADVICE = re.compile(r'long="cut"( or long="[\w-]+")*')  # here a text is cut in one way


def _inputs(pairs: bool) -> Any:
    """A text, a list of texts (or of pairs), a row of ids or a list of rows, as a list of texts, pairs or rows: always several."""

    def check(value: Any) -> Any:
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list) or not value:
            raise ValueError("a text, a list of texts, a list of ids or a list of such lists is needed, and none of the lists may be empty")
        if all(type(one) is int for one in value):
            value = [value]
        if len(value) > MOST_ROWS:
            raise ValueError(f"there are {len(value):,} texts; at most {MOST_ROWS:,} are read for one request")
        for number, one in enumerate(value):
            row = isinstance(one, list) and 0 < len(one) <= MOST_IDS and all(type(id) is int for id in one)
            pair = pairs and isinstance(one, list) and len(one) == 2 and all(isinstance(part, str) for part in one)
            if not (isinstance(one, str) or row or pair) or type(one) is not type(value[0]):
                kinds = "a text, a pair of texts or a list of ids" if pairs else "a text or a list of ids"
                raise ValueError(f"the entry {number} is not {kinds} like the first (ids: 1 to {MOST_IDS:,} in a list)")
        return value

    text, ids = {"type": "string"}, {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    rows: list[dict[str, Any]] = [{"type": "array", "items": kind, "minItems": 1, "maxItems": MOST_ROWS} for kind in (text, ids)]
    if pairs:
        two = {"type": "array", "items": text, "minItems": 2, "maxItems": 2}
        rows.append({"type": "array", "items": two, "minItems": 1, "maxItems": MOST_ROWS})
    return Annotated[Any, BeforeValidator(check), WithJsonSchema({"anyOf": [text, ids, *rows]})]


class Cut(Body):
    """What all bodies of texts share: whether, and to what, a text that is too long is cut."""

    model: str | None = Field(None, description="Which model; the first one where it is not said.")
    truncate: bool | None = Field(
        None, description="Cut a text that is too long at its end, or refuse it; unsaid: as the model was tuned, else refused."
    )
    truncate_prompt_tokens: int | None = Field(None, ge=-1, description="Cut a text to so many tokens; -1: to what the model reads.")
    user: str | None = Field(None, max_length=256, description="Changes nothing here: nothing that is read is kept.")
    priority: refusable("all requests have one priority", 0) = None  # type: ignore[valid-type]

    def long(self) -> dict[str, Any]:
        """The fields of a `Read` that say what happens to a text that is too long."""
        most = self.truncate_prompt_tokens
        if most == 0:
            message = "'truncate_prompt_tokens' is 0; allowed: 1 and more, or -1."
            raise Refused(400, message, param="truncate_prompt_tokens", code="invalid_value")
        if self.truncate is False and most is not None:
            message = "'truncate': false and 'truncate_prompt_tokens' say different things. Give one."
            raise Refused(400, message, param="truncate_prompt_tokens")
        long = "cut" if self.truncate or most is not None else "error" if self.truncate is False else None
        return {"long": long, "limit": None if most in (None, -1) else most}


class Embeddings(Cut):
    model: str
    input: _inputs(pairs=False)  # type: ignore[valid-type]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, description="Keep so many numbers of each vector, and make its length 1 again.")
    input_type: Literal["query", "document", "passage"] | None = Field(None, description="Puts the model's own prompt before each text.")


class Document(Body):
    text: str


class Rerank(Cut):
    query: str
    documents: list[str | Document] = Field(min_length=1, max_length=MOST_ROWS)
    top_n: int | None = Field(None, ge=0, description="The best so many; 0 or null: all.")
    return_documents: bool | None = None
    label: str | None = Field(None, max_length=256, description="Whose score counts, where the model has several labels.")
    max_tokens_per_doc: refusable("documents are cut only where 'truncate' or 'truncate_prompt_tokens' says so") = None  # type: ignore[valid-type]
    max_chunks_per_doc: refusable("documents are read whole; divide them yourself") = None  # type: ignore[valid-type]
    rank_fields: refusable("a document is one text", ["text"]) = None  # type: ignore[valid-type]


class Classify(Cut):
    input: _inputs(pairs=True)  # type: ignore[valid-type]


class Tokenize(Body):
    """vLLM's two bodies in one: `prompt`, or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Turn] | None = Field(None, min_length=1, max_length=MOST_MESSAGES)
    tools: list[dict[str, Any]] | None = Field(None, max_length=1024)
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    add_generation_prompt: refusable("a conversation is always shown with the beginning of the answer", True) = None  # type: ignore[valid-type]
    continue_final_message: refusable("a conversation is always shown with the beginning of a new answer", False) = None  # type: ignore[valid-type]
    chat_template: refusable("the model's own template is used, and no other") = None  # type: ignore[valid-type]
    chat_template_kwargs: refusable("the model's own template is used as it is", {}) = None  # type: ignore[valid-type]
    mm_processor_kwargs: refusable("this server reads text only", {}) = None  # type: ignore[valid-type]

    def ask(self) -> Tokens:
        """Raises Refused for fields that contradict each other."""
        if (self.prompt is None) == (self.messages is None):
            raise Refused(400, "give either 'prompt' or 'messages'.", param="prompt")
        if self.messages is None:
            if self.tools:
                raise Refused(400, "'tools' belong to 'messages'.", param="tools")
            return Tokens(text=self.prompt, whole=self.add_special_tokens is not False, spelled=bool(self.return_token_strs))
        if self.add_special_tokens:
            raise Refused(400, "'add_special_tokens' is for 'prompt'; the template says what stands in a conversation.", param="messages")
        turns = [message(turn, number) for number, turn in enumerate(self.messages)]
        return Tokens(messages=turns, tools=self.tools or (), spelled=bool(self.return_token_strs))


class Detokenize(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0)]] = Field(max_length=MOST_IDS)


def routes(front: Front) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", summary="Vectors of texts")
    async def embeddings(body: Embeddings, request: Request) -> Response:
        kind: Literal["query", "document"] | None = "document" if body.input_type == "passage" else body.input_type
        ask = Read("embed", body.input, kind=kind, dimensions=body.dimensions, **body.long())
        worker, found = await _read(front, request, body, ask)
        rows = [row async for row in _rows(found.value, found.cut, body.encoding_format == "base64")]
        usage = _usage(found)
        text = f'{{"object": "list", "data": [{", ".join(rows)}], "model": {json.dumps(worker.name)}, "usage": {json.dumps(usage)}}}'
        return Response(text, media_type="application/json")

    @router.post("/rerank", summary="Texts by how well they suit a query")
    @router.post("/v1/rerank", include_in_schema=False)
    @router.post("/v2/rerank", include_in_schema=False)
    async def rerank(body: Rerank, request: Request) -> Response:
        texts = [one if isinstance(one, str) else one.text for one in body.documents]
        ask = Read("rerank", texts, query=body.query, label=body.label, **body.long())
        worker, found = await _read(front, request, body, ask)
        cut = found.cut[len(found.cut) - len(texts) :]  # without that of a query that was read alone
        best = found.value[: body.top_n or None]
        results = [{"index": number, "relevance_score": score, **_left_out(cut[number])} for number, score in best]
        if body.return_documents is not False:
            results = [{**one, "document": {"text": texts[one["index"]]}} for one in results]
        return JSONResponse({"id": f"rerank-{front.id(request)}", "model": worker.name, "usage": _usage(found), "results": results})

    @router.post("/classify", summary="Labels of texts, or of pairs of texts")
    async def classify(body: Classify, request: Request) -> Response:
        worker, found = await _read(front, request, body, Read("classify", body.input, **body.long()))
        head = {"id": f"classify-{front.id(request)}", "object": "list", "created": int(time.time()), "model": worker.name}
        labels, each = worker.facts["labels"], zip(found.value, found.cut, strict=True)
        data = [_labelled(number, dict(scores), labels) | _left_out(cut) for number, (scores, cut) in enumerate(each)]
        return JSONResponse({**head, "data": data, "usage": _usage(found) | {"completion_tokens": 0}})

    @router.post("/tokenize", summary="Ids of a text or a conversation")
    async def tokenize(body: Tokenize, request: Request) -> Response:
        worker, found = await front.found(request, body.model, body.ask())
        ids = [id for id, _ in found.value] if body.return_token_strs else found.value
        spelled = [spelling for _, spelling in found.value] if body.return_token_strs else None
        return JSONResponse({"count": found.tokens, "max_model_len": worker.facts["context"], "tokens": ids, "token_strs": spelled})

    @router.post("/detokenize", summary="The text of ids")
    async def detokenize(body: Detokenize, request: Request) -> Response:
        _, found = await front.found(request, body.model, Tokens(ids=body.tokens))
        return JSONResponse({"prompt": found.value})

    @router.get("/tokenizer_info", summary="What a client must know that makes ids by /tokenize")
    async def tokenizer_info(model: str | None = None) -> Response:
        if model is None and len(front.models.workers) > 1:
            # A client that does not say which would get the ids of one model for another.
            there = ", ".join(front.models.workers)
            raise Refused(400, f"there are several models. Name one: /tokenizer_info?model=...; there are: {there}.", param="model")
        worker = await front.models.opened(model)
        # Of a special token the id is told and not the spelling: /tokenize takes no text for a special token, whatever it spells.
        spellings = {"bos_token": None, "eos_token": None, "pad_token": None}
        ids = {"special_ids": worker.facts["special"], "vocab_size": worker.facts["vocab"], "model_max_length": worker.facts["context"]}
        return JSONResponse({"model": worker.name, **spellings, **ids})

    return router


async def _read(front: Front, request: Request, body: Cut, ask: Read) -> tuple[Worker, Found]:
    """`Front.found`, whose advice for a text that is too long is the one for this API."""
    try:
        names = {"texts": "documents" if ask.use == "rerank" else "input", "limit": "truncate_prompt_tokens"}
        return await front.found(request, body.model, ask, names)
    except Refused as error:
        error.message = _ADVICE.sub('"truncate": true', error.message).replace('long="error"', '"truncate": false')
        raise


def _left_out(tokens: int) -> dict[str, int]:
    """What an entry says of a text of which so many tokens were not read."""
    return {"truncated_tokens": tokens} if tokens else {}


def _usage(found: Found) -> dict[str, int]:
    return {"prompt_tokens": found.tokens, "total_tokens": found.tokens, **_left_out(sum(found.cut))}


async def _rows(vectors: list[str], cut: Sequence[int], packed: bool) -> Any:
    """The entries of `data`. Many vectors as decimal numbers take long to write, so others get their turn in between."""
    for number, vector in enumerate(vectors):
        if packed:
            value = f'"{vector}"'
        else:
            held = base64.b64decode(vector)
            value = json.dumps(struct.unpack(f"<{len(held) // 4}f", held), allow_nan=False)
            await asyncio.sleep(0)
        more = "".join(f', "{name}": {tokens}' for name, tokens in _left_out(cut[number]).items())
        yield f'{{"object": "embedding", "index": {number}, "embedding": {value}{more}}}'


def _labelled(number: int, scores: dict[str, float], labels: list[str]) -> dict[str, Any]:
    """vLLM's form (`probs` in the order of the model's labels), and beside it every label with its score, best first."""
    best = next(iter(scores))
    return {"index": number, "label": best, "probs": [scores[name] for name in labels], "num_classes": len(labels), "scores": scores}
