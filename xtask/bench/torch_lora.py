"""The worker for updates of LoRA with PyTorch: transformers' model, peft's adapters, AdamW with the Trainer's defaults."""

import argparse
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import peft
import torch
import transformers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear")
    model = peft.get_peft_model(model, config)
    input_ids = torch.tensor(worker.token_ids(args.batch, args.seq, model.config.vocab_size))
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.0, fused=True)
    first = []

    def work():
        loss = model(input_ids=input_ids, labels=input_ids).loss
        first.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return torch.tensor(first[:1]).numpy()

    worker.serve(f"torch {torch.__version__.split('+')[0]} {args.dtype}", work)


if __name__ == "__main__":
    main()
