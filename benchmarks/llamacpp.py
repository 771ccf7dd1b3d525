"""llama.cpp behind a pipe, for `engine.py --llama PYTHON`: that Python runs this file, which needs llama_cpp and numpy and nothing else.

    PYTHON benchmarks/llamacpp.py MODEL.gguf THREADS

One command a line on standard input, one answer a line on standard output, as JSON; what takes time is timed here. Tokens are drawn
greedily from llama.cpp's logits, without its Python sampler; each prompt is a sequence of its own, all in one batch.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any


class Llama:
    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.lib, self.threads = llama_cpp, threads
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot open {path}")
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.context: Any = None

    def open(self, prompts: list[list[int]], tokens: int, flash: bool, ubatch: int) -> dict[str, Any]:
        """A new context with these prompts read; `write` continues them."""
        lib = self.lib
        self.close()
        count, length = len(prompts), len(prompts[0])
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = count * (-(-(length + tokens) // 256) * 256), max(512, count * length), ubatch
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max, params.kv_unified, params.flash_attn_type = count, False, int(flash)
        self.context = lib.llama_init_from_model(self.model, params)
        self.batch = lib.llama_batch_init(count * length, 0, 1)
        self.length = length
        self.prompts = prompts
        self.seconds = self._read()
        return {"seconds": self.seconds}

    def read(self) -> dict[str, Any]:
        """The prompts once more, to the first token of each."""
        return {"seconds": self._read()}

    def _read(self) -> float:
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.context), True)
        began = time.perf_counter()
        self._feed(self.prompts, 0)
        self.first = self._best(self.length)
        return time.perf_counter() - began

    def write(self, tokens: int) -> dict[str, Any]:
        """Seconds of so many more tokens for each prompt after its first; what was written before is forgotten."""
        self.lib.llama_memory_seq_rm(self.lib.llama_get_memory(self.context), -1, self.length, -1)
        now, written = self.first, [self.first]
        began = time.perf_counter()
        for place in range(tokens):
            self._feed([[token] for token in now], self.length + place)
            now = self._best(1)
            written.append(now)
        return {"seconds": time.perf_counter() - began, "ids": [list(row) for row in zip(*written, strict=True)]}

    def logits(self) -> dict[str, Any]:
        """Of the first prompt's last token."""
        self._read()
        return {"logits": [float(value) for value in self._row(self.length - 1)]}

    def _feed(self, rows: list[list[int]], start: int) -> None:
        batch, at = self.batch, 0
        for sequence, row in enumerate(rows):
            for place, token in enumerate(row):
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, start + place, 1
                batch.seq_id[at][0] = sequence
                batch.logits[at] = place == len(row) - 1
                at += 1
        batch.n_tokens = at
        if code := self.lib.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode: {code}")

    def _row(self, place: int) -> Any:
        import numpy as np

        return np.ctypeslib.as_array(self.lib.llama_get_logits_ith(self.context, place), (self.vocab,))

    def _best(self, step: int) -> list[int]:
        return [int(self._row(i * step + step - 1).argmax()) for i in range(len(self.prompts))]

    def about(self) -> dict[str, Any]:
        return {"version": self.lib.__version__, "system": self.lib.llama_print_system_info().decode()}

    def memory(self) -> dict[str, Any]:
        """Bytes of this process, shared pages by share, those of the file among them."""
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            return {"pss": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))}

    def close(self) -> dict[str, Any]:
        if self.context is not None:
            self.lib.llama_batch_free(self.batch)
            self.lib.llama_free(self.context)
            self.context = None
        return {}


def serve(path: str, threads: int) -> None:
    llama = Llama(path, threads)
    print(json.dumps(llama.about()), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(llama, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
