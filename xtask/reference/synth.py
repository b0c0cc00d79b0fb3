"""Synthetic weights: a value for every element of every tensor, from nothing but the tensor's name.

A case stores no weights, only `weights.json`:

    {"<tensor name>": {"shape": [...], "mean": m, "std": s}, ...}     optional "dtype": one of DTYPES

The values are uniform with that mean and standard deviation and come from splitmix64, seeded by the tensor's name and
counted by the element's row-major index. The same lines stand in Rust; the order of the f64 operations in `values` is
part of the recipe, and so is the rounding: f64 to f32, and from there to the other dtypes, each to nearest even; what
is out of the range of u8 or f8_e4m3 becomes the end of it.

    python synth.py CASE OUT      write CASE/weights.json as OUT/model.safetensors, and CASE/config.json beside it
"""

import argparse
import json
import math
import shutil
from pathlib import Path

import numpy as np

DTYPES = ("f32", "bf16", "f16", "u8", "f8_e4m3")


def seed(name: str) -> int:
    """FNV-1a, 64 bits, of the name's UTF-8 bytes."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


def random_u64(name: str, count: int) -> np.ndarray:
    """Elements 0..count of splitmix64's stream for this name."""
    # uint64 arrays wrap around silently, which is the arithmetic wanted here.
    z = np.uint64(seed(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def values(name: str, shape: list[int], mean: float, std: float) -> np.ndarray:
    """The f32 values of one tensor."""
    k = (random_u64(name, math.prod(shape)) >> np.uint64(40)).astype(np.float64)
    unit = (2.0 * k + 1.0) / 16777216.0 - 1.0  # exact: an odd multiple of 2^-24 between -1 and 1
    return (mean + std * math.sqrt(3.0) * unit).astype(np.float32).reshape(shape)


def tensors(weights: dict) -> dict:
    """Torch tensors for the content of a `weights.json`, in their dtypes."""
    import torch

    rounded = {
        "f32": lambda x: x,
        "bf16": lambda x: x.to(torch.bfloat16),
        "f16": lambda x: x.to(torch.float16),
        "u8": lambda x: x.round().clamp(0, 255).to(torch.uint8),
        "f8_e4m3": lambda x: x.clamp(-448, 448).to(torch.float8_e4m3fn),
    }
    return {
        name: rounded[spec.get("dtype", "f32")](
            torch.from_numpy(values(name, spec["shape"], spec["mean"], spec["std"]))
        )
        for name, spec in weights.items()
    }


def write_checkpoint(weights: dict, folder: Path, change=lambda tensors: tensors) -> None:
    """Writes `model.safetensors` with the values of a `weights.json`, or what `change` makes of them."""
    from safetensors.torch import save_file

    save_file(change(tensors(weights)), folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description="write the synthetic checkpoint of a recorded case")
    parser.add_argument("case", type=Path, help="folder with config.json and weights.json")
    parser.add_argument("out", type=Path, help="folder to write model.safetensors and config.json to")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(json.loads((args.case / "weights.json").read_text()), args.out)
    shutil.copyfile(args.case / "config.json", args.out / "config.json")


if __name__ == "__main__":
    main()
