"""The worker for forward passes with PyTorch: transformers' model in f32, with the attention it chooses itself."""

import argparse
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import torch
import transformers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = transformers.BertModel.from_pretrained(args.model, dtype=torch.float32).eval()
    input_ids = torch.tensor(worker.token_ids(args.batch, args.seq, model.config.vocab_size))

    def work():
        with torch.inference_mode():
            return model(input_ids=input_ids).last_hidden_state.numpy()

    worker.serve(f"torch {torch.__version__.split('+')[0]} f32", work)


if __name__ == "__main__":
    main()
