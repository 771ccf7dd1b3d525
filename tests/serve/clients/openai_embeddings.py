"""First lines with OpenAI's own package, and vectors as it asks for them unless told otherwise: in base64.

python openai_embeddings.py URL CHAT-MODEL MODEL-FOR-VECTORS
"""

import json
import math
import sys

import openai  # shown

url, talker, reader = sys.argv[1:]
texts = ["a fox", "The quick brown fox jumps over the lazy dog."]

# shown
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
said = client.chat.completions.create(model=talker, messages=[{"role": "user", "content": "hello"}], max_tokens=16)
found = client.embeddings.create(model=reader, input=["a fox", "The quick brown fox jumps over the lazy dog."])
vectors = [one.embedding for one in found.data]
# end

floats = [one.embedding for one in client.embeddings.create(model=reader, input=texts, encoding_format="float").data]
short = client.embeddings.create(model=reader, input=texts, dimensions=8).data
long = None
try:
    client.embeddings.create(model=reader, input="fox " * 2000)
except openai.BadRequestError as error:
    long = error.code
print(
    json.dumps(
        {
            "chat": said.choices[0].finish_reason in ("length", "stop"),
            "embeddings in base64 (what the package asks for)": vectors == floats and len(vectors) == 2,
            "embeddings as numbers": all(isinstance(value, float) for value in floats[0]),
            "dimensions": len(short[0].embedding) == 8 and math.isclose(math.hypot(*short[0].embedding), 1, abs_tol=1e-5),
            "lists of ids": len(client.embeddings.create(model=reader, input=[[5, 6], [7, 8, 9]]).data) == 2,
            "usage": found.usage.prompt_tokens == found.usage.total_tokens > 0,
            "a text too long is an error with a code": long == "context_length_exceeded",
        }
    )
)
