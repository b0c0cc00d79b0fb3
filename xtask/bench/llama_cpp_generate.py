"""The worker for language models with llama.cpp: what export_gguf.py wrote, with the cache that it chooses itself."""

import argparse
import ctypes
import json
import sys
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import llama_cpp
import numpy as np

# Tokens that are computed at once.
BATCH = 512
# `GGML_LOG_LEVEL_ERROR`.
ERROR = 4


@llama_cpp.llama_log_callback
def log(level, text, _):
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


class Context:
    """Sequences on their way through a model."""

    def __init__(self, file: Path, rows: int, room: int, threads: int) -> None:
        model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise SystemExit(f"{file}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = rows * room
        params.n_seq_max = rows
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model, params)
        if not self.context:
            raise SystemExit(f"{file}: llama.cpp cannot make a context of {params.n_ctx} tokens")
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def scores(self, start: int, token_ids: np.ndarray) -> np.ndarray:
        """The scores of what follows the tokens [rows, seq], the first of which is number `start` of its sequence."""
        rows, seq = token_ids.shape
        batch = self.batch
        batch.n_tokens = rows * seq
        for i, token in enumerate(token_ids.flat):
            batch.token[i] = token
            batch.pos[i] = start + i % seq
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = i // seq
            batch.logits[i] = i % seq == seq - 1
        if error := llama_cpp.llama_decode(self.context, batch):
            raise SystemExit(f"llama.cpp cannot decode: {error}")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (rows, self.vocab_size))

    def truncate(self, length: int) -> None:
        """Forgets all but the first tokens of each sequence."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), -1, length, -1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the checkpoint")
    parser.add_argument("--gguf", type=Path, required=True, help="the file that export_gguf.py wrote")
    worker.add_generation(parser)
    args = parser.parse_args()
    llama_cpp.llama_log_set(log, ctypes.c_void_p())
    context = Context(args.gguf, args.batch, args.prompt + args.steps, args.threads)
    vocab_size = json.loads((args.model / "config.json").read_text())["vocab_size"]
    token_ids = np.array(worker.token_ids(args.batch, args.prompt + 1, vocab_size))
    prompt, first = token_ids[:, : args.prompt], token_ids[:, args.prompt :]

    def prefill():
        context.truncate(0)
        return context.scores(0, prompt)

    def decode():
        context.truncate(args.prompt)
        # llama.cpp overwrites its scores.
        scores = context.scores(args.prompt, first)
        result = scores.copy()
        for step in range(1, args.steps):
            scores = context.scores(args.prompt + step, scores.argmax(-1, keepdims=True))
        return result

    prefill()
    worker.serve(f"llama-cpp-python {llama_cpp.__version__}", decode if args.steps else prefill)


if __name__ == "__main__":
    main()
