"""Vectors through OpenAI's own package, as it asks for them unless told otherwise: in base64.

python openai_embeddings.py URL MODEL
"""

import json
import math
import sys

import openai  # shown

url, model = sys.argv[1:]
texts = ["a fox", "The quick brown fox jumps over the lazy dog."]

# shown
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
answer = client.embeddings.create(model=model, input=["a fox", "The quick brown fox jumps over the lazy dog."])
vectors = [one.embedding for one in answer.data]
# end

floats = [one.embedding for one in client.embeddings.create(model=model, input=texts, encoding_format="float").data]
short = client.embeddings.create(model=model, input=texts, dimensions=8).data
long = None
try:
    client.embeddings.create(model=model, input="fox " * 2000)
except openai.BadRequestError as error:
    long = error.code
print(
    json.dumps(
        {
            "embeddings in base64 (what the package asks for)": vectors == floats and len(vectors) == 2,
            "embeddings as numbers": all(isinstance(value, float) for value in floats[0]),
            "dimensions": len(short[0].embedding) == 8 and math.isclose(math.hypot(*short[0].embedding), 1, abs_tol=1e-5),
            "lists of ids": len(client.embeddings.create(model=model, input=[[5, 6], [7, 8, 9]]).data) == 2,
            "usage": answer.usage.prompt_tokens == answer.usage.total_tokens > 0,
            "a text too long is an error with a code": long == "context_length_exceeded",
        }
    )
)
