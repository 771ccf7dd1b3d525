"""lm-evaluation-harness, `local-completions`: log-likelihoods and answers, with the model's own tokenizer and with the server's.

python lm_eval_completions.py URL MODEL EXPECTED

EXPECTED: JSON of what the model itself says: {"folder": its folder, "score": [context, continuation, log-probability, greedy], "bare": the
log-probability where nothing stands before the context, "answer": [prompt, text]}. The server must have this one model.
"""

import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model  # shown

url, model, expected = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
folder = expected["folder"]

# shown
LM = get_model("local-completions")
server = {"base_url": f"{url}/v1/completions", "max_length": 512, "max_retries": 1}
lm = LM(model=model, tokenizer=folder, tokenizer_backend="huggingface", add_bos_token=True, **server)
# end

remote = LM(model=model, **server)
own = {"tokenizer": folder, "tokenizer_backend": "huggingface", "add_bos_token": True}
many = LM(model=model, num_concurrent=4, batch_size=2, **own, **server)


def asked(kind: str, *rows: tuple) -> list[Instance]:
    return [Instance(kind, {}, row, number) for number, row in enumerate(rows)]


context, continuation, logprob, greedy = expected["score"]
prompt, text = expected["answer"]
rows = [(context, continuation), (context, " lazy dog"), ("The", " quick brown")]
scores = lm.loglikelihood(asked("loglikelihood", *rows))
answers = lm.generate_until(asked("generate_until", (prompt, {"until": ["\n\n"], "max_gen_toks": 12})), disable_tqdm=True)
rolling = lm.loglikelihood_rolling(asked("loglikelihood_rolling", (context,)), disable_tqdm=True)
[bare, _, _] = remote.loglikelihood(asked("loglikelihood", *rows))

print(
    json.dumps(
        {
            "loglikelihood (echo and logprobs)": abs(scores[0][0] - logprob) < 1e-3 and scores[0][1] == greedy,
            "loglikelihood, several at once": many.loglikelihood(asked("loglikelihood", *rows)) == scores,
            "loglikelihood_rolling": rolling[0] < 0,
            "generate_until": answers == [text],
            "the server's tokenizer (/tokenizer_info)": remote.tokenizer_backend == "remote" and abs(bare[0] - expected["bare"]) < 1e-3,
        }
    )
)
