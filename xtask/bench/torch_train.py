"""The worker for updates with PyTorch: transformers' model in f32, AdamW with the Trainer's defaults."""

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
    # In evaluation mode: tx has no dropout.
    model = transformers.BertModel.from_pretrained(args.model, dtype=torch.float32).eval()
    input_ids = torch.tensor(worker.token_ids(args.batch, args.seq, model.config.vocab_size))
    labels = torch.arange(args.batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.0, fused=True)
    first = []

    def work():
        states = model(input_ids=input_ids).last_hidden_state
        loss = torch.nn.functional.cross_entropy(states[:, 0], labels)
        first.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return torch.tensor(first[:1]).numpy()

    worker.serve(f"torch {torch.__version__.split('+')[0]} f32", work)


if __name__ == "__main__":
    main()
