"""lm-evaluation-harness, `local-completions`: log-likelihoods and answers, tokenized by the server.

python lm_eval_completions.py URL MODEL EXPECTED

EXPECTED: JSON of what the model itself says: {"score": [context, continuation, log-probability, greedy], "answer": [prompt, text]}. The
server must have this one model.
"""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model  # shown

url, model, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

# shown
LM = get_model("local-completions")
lm = LM(model=model, base_url=f"{url}/v1/completions", max_length=512, max_retries=1)
# end

many = LM(model=model, base_url=f"{url}/v1/completions", max_length=512, max_retries=1, num_concurrent=4, batch_size=2)


def asked(kind: str, *rows: tuple) -> list[Instance]:
    return [Instance(kind, {}, row, number) for number, row in enumerate(rows)]


context, continuation, logprob, greedy = expected["score"]
prompt, text = expected["answer"]
rows = [(context, continuation), (context, " lazy dog"), ("The", " quick brown")]
scores = lm.loglikelihood(asked("loglikelihood", *rows))
answers = lm.generate_until(asked("generate_until", (prompt, {"until": ["\n\n"], "max_gen_toks": 12})), disable_tqdm=True)
prefix = LM(model=model, base_url=f"{url}/v1/completions", max_length=512, max_retries=1, custom_prefix_token_id=0)
rolling = prefix.loglikelihood_rolling(asked("loglikelihood_rolling", (context,)), disable_tqdm=True)

print(
    json.dumps(
        {
            "the server's own tokenizer (/tokenizer_info, /tokenize)": lm.tokenizer_backend == "remote",
            "loglikelihood (echo and logprobs)": abs(scores[0][0] - logprob) < 1e-3 and scores[0][1] == greedy,
            "loglikelihood, several at once": many.loglikelihood(asked("loglikelihood", *rows)) == scores,
            "loglikelihood_rolling, with custom_prefix_token_id": rolling[0] < 0,
            "generate_until": answers == [text],
        }
    )
)
