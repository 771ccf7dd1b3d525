"""LlamaIndex's classes for servers that speak OpenAI's APIs: chat, streams, tools, structured output, vectors.

python llamaindex_classes.py URL CHAT-MODEL MODEL-FOR-VECTORS
"""

import asyncio
import json
import sys
from typing import Literal

from llama_index.core.llms import ChatMessage  # shown
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding  # shown
from llama_index.llms.openai_like import OpenAILike  # shown
from pydantic import BaseModel

url, talker, reader = sys.argv[1:]

# shown
server = {"api_base": f"{url}/v1", "api_key": "none"}
able = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
llm = OpenAILike(model=talker, context_window=512, max_tokens=16, temperature=0, **able, **server)
answer = llm.chat([ChatMessage("hello")])
pieces = list(llm.stream_chat([ChatMessage("hello")]))
vectors = OpenAILikeEmbedding(model_name=reader, **server)
found = vectors.get_text_embedding_batch(["a fox", "a dog"])
# end


class Pet(BaseModel):  # small, as all schemas here: the tiny model's context is 512 tokens, and nearly each letter is one
    kind: Literal["fox", "dog"]


def weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather."""
    return f"rain in {city}"


wide = llm.model_copy(update={"max_tokens": 160, "strict": True})
called = wide.chat_with_tools([FunctionTool.from_defaults(weather, description="Weather.")], user_msg="Rome?", tool_required=True)
calls = wide.get_tool_calls_from_response(called)
form = wide.structured_predict(Pet, PromptTemplate("{text}"), text="A fox.")
prompt = llm.model_copy(update={"is_chat_model": False})
both = asyncio.run(llm.achat([ChatMessage("hello")]))

print(
    json.dumps(
        {
            "chat": answer.message.content != "" and answer.raw.choices[0].finish_reason == "length",
            "chat, asynchronous": both.message.content == answer.message.content,
            "usage": answer.raw.usage.completion_tokens == 16,
            "stream": pieces[-1].message.content == answer.message.content and len(pieces) > 2,
            "tools": calls[0].tool_name == "weather" and calls[0].tool_kwargs["city"] in ("Rome", "Oslo"),
            "structured output": isinstance(form, Pet),
            "completions": prompt.complete("The quick").text != "",
            "completions in a stream": list(prompt.stream_complete("The quick"))[-1].text == prompt.complete("The quick").text,
            "OpenAILikeEmbedding": len(found) == 2 and len(found[0]) == len(found[1]) > 8,
            "OpenAILikeEmbedding of a query": len(vectors.get_query_embedding("a fox")) == len(found[0]),
        }
    )
)
