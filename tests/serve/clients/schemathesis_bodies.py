"""Bodies made up from the server's own OpenAPI, valid ones and broken ones, against every route: URL COUNT -> JSON.

Prints {"bodies": how many were sent, "statuses": {status: how many}, "failed": [those that were answered with 5xx]}. Nine of ten name a
model that is there: a made-up name would always end at that.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections import Counter
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

MODELS = ("chat", "base", "bert", "t5")


def main(url: str, count: int) -> dict[str, Any]:
    session = requests.Session()
    session.trust_env = False
    schema = schemathesis.openapi.from_dict(session.get(f"{url}/openapi.json", timeout=30).json())
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [one for one in operations if one.method.upper() == "POST"]
    draw, statuses, failed = random.Random(0), Counter[int](), list[dict[str, Any]]()
    each = -(-count * 6 // (5 * 2 * len(operations)))  # some cannot be written as JSON

    def ask(path: str, body: Any) -> None:
        if isinstance(body, dict) and "model" in body and draw.random() < 0.9:
            body["model"] = draw.choice(MODELS)
        if isinstance(body, dict) and isinstance(body.get("messages"), list) and draw.random() < 0.3:
            body["messages"] = [{"role": "user", "content": "x"}]
        try:
            data = json.dumps(body).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError):
            return
        answer = session.post(url + path, data=data, headers={"Content-Type": "application/json"}, timeout=60)
        statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            failed.append(
                {"path": path, "status": answer.status_code, "body": data[:2000].decode(errors="replace"), "said": answer.text[:500]}
            )

    how = settings(
        max_examples=each, database=None, derandomize=True, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    for operation in operations:
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):

            def one(case: Any) -> None:
                ask(case.path, {} if isinstance(case.body, schemathesis.core.NotSet) else case.body)

            how(given(operation.as_strategy(generation_mode=mode))(one))()
    return {"bodies": sum(statuses.values()), "statuses": dict(statuses), "failed": failed[:5]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
