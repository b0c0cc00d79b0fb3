"""The worker for language models with PyTorch: transformers' model and cache, called as its `generate` calls them."""

import argparse
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import torch
import transformers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    worker.add_generation(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype]
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).eval()
    input_ids = torch.tensor(worker.token_ids(args.batch, args.prompt + 1, model.config.vocab_size))
    prompt, first = input_ids.split([args.prompt, 1], dim=1)

    def scores(input_ids, cache):
        outputs = model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return outputs.logits[:, -1]

    def new_cache():
        return transformers.DynamicCache(config=model.config)

    @torch.inference_mode()
    def prefill():
        return scores(prompt, new_cache()).float().numpy()

    @torch.inference_mode()
    def decode():
        cache.crop(args.prompt - cache.get_seq_length())
        result = logits = scores(first, cache)
        for _ in range(args.steps - 1):
            logits = scores(logits.argmax(-1, keepdim=True), cache)
        return result.float().numpy()

    if args.steps:
        cache = new_cache()
        with torch.inference_mode():
            scores(prompt, cache)
    name = f"torch {torch.__version__.split('+')[0]} {args.dtype}"
    worker.serve(name, decode if args.steps else prefill)


if __name__ == "__main__":
    main()
