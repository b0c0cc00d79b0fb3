"""The worker for sentence embeddings with sentence-transformers, called as its documentation does."""

import argparse
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import sentence_transformers
import torch


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--texts", type=Path, required=True, help="one text per line")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = sentence_transformers.SentenceTransformer(str(args.model), device="cpu")
    texts = args.texts.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    name = f"sentence-transformers {sentence_transformers.__version__}"
    worker.serve(name, lambda: model.encode(texts, show_progress_bar=False))


if __name__ == "__main__":
    main()
