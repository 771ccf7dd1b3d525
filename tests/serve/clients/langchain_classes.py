"""LangChain's classes for OpenAI's APIs: chat, streams, tools, structured output, vectors.

python langchain_classes.py URL CHAT-MODEL MODEL-FOR-VECTORS
"""

import json
import sys
from typing import Literal

import openai
import tiktoken
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings  # shown
from pydantic import BaseModel

url, talker, reader = sys.argv[1:]

# shown
chat = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=talker, temperature=0, max_tokens=16)
answer = chat.invoke("hello")
pieces = list(chat.stream("hello", stream_usage=True))
vectors = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model=reader, check_embedding_ctx_length=False)
found = vectors.embed_documents(["a fox", "a dog"])
# end


class Pet(BaseModel):  # small, as all schemas here: the tiny model's context is 512 tokens, and nearly each letter is one
    kind: Literal["fox", "dog"]


@tool
def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather."""
    return f"rain in {city}"


whole = pieces[0]
for piece in pieces[1:]:
    whole += piece
wide = chat.model_copy(update={"max_tokens": 120})
called = wide.bind_tools([weather], tool_choice="required", strict=True).invoke("Rome?")
streamed = None
for piece in wide.bind_tools([weather], tool_choice="required", strict=True).stream("Rome?"):
    streamed = piece if streamed is None else streamed + piece
after = chat.invoke([("human", "Rome?"), called, weather.invoke(called.tool_calls[0])])
forms = {how: wide.with_structured_output(Pet, method=how, strict=True).invoke("A fox.") for how in ("json_schema", "function_calling")}

# Unless told otherwise the class sends ids, of a tokenizer that need not be the model's: in-range ids are read as the model's own, others
# are refused. Here two stand for that tokenizer, which the class would fetch from the network.
size = 256
encodings = {
    start: tiktoken.Encoding("bytes", pat_str=r"(?s).", mergeable_ranks={bytes([i]): start + i for i in range(size)}, special_tokens={})
    for start in (0, 1_000_000)
}
sending = vectors.model_copy(update={"check_embedding_ctx_length": True})
tiktoken.get_encoding = lambda name: encodings[0]
rows = sending.embed_documents(["a fox", "a dog"])
tiktoken.get_encoding = lambda name: encodings[1_000_000]
refused = ""
try:
    sending.embed_documents(["a fox"])
except openai.BadRequestError as error:
    refused = error.message

print(
    json.dumps(
        {
            "chat": answer.content != "" and answer.response_metadata["finish_reason"] == "length",
            "usage": answer.usage_metadata["output_tokens"] == 16 and answer.usage_metadata["input_tokens"] > 0,
            "stream": whole.content == answer.content and len(pieces) > 2,
            "usage in streams": whole.usage_metadata["output_tokens"] == 16,
            "tools": called.tool_calls[0]["name"] == "weather" and called.tool_calls[0]["args"]["city"] in ("Rome", "Oslo"),
            "tools in streams": streamed.tool_calls[0]["args"] == called.tool_calls[0]["args"],
            "the result of a tool": after.content != "",
            "structured output (json_schema)": isinstance(forms["json_schema"], Pet),
            "structured output (function_calling)": isinstance(forms["function_calling"], Pet),
            "OpenAIEmbeddings with check_embedding_ctx_length=False": len(found) == 2 and len(found[0]) == len(found[1]) > 8,
            "OpenAIEmbeddings as it is sends ids: in range they are read": len(rows) == 2 and rows[0] != found[0],
            "OpenAIEmbeddings as it is sends ids: out of range they are refused": "this model's ids go from 0 to" in refused,
        }
    )
)
