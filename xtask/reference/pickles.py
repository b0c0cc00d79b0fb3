"""Writes the small PyTorch checkpoints that the tests of `weights::pickle` read.

Usage: python xtask/reference/pickles.py [FOLDER]      (default: tests/data/pickle)
"""

import sys
from collections import OrderedDict
from pathlib import Path

import torch


def state_dict() -> OrderedDict:
    """One tensor of each kind that the reader treats differently; all values follow from the index."""
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4) / 8
    tensors = OrderedDict()
    tensors["base"] = base
    tensors["tied"] = base
    tensors["transposed"] = base.t()
    tensors["row"] = base[1]
    tensors["column"] = base[:, 2]
    tensors["expanded"] = torch.tensor([[1.5], [2.5]]).expand(2, 3)
    tensors["scalar"] = torch.tensor(7)
    tensors["empty"] = torch.zeros(0, 4)
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([0.25, -0.25]))
    tensors["bf16"] = torch.tensor([1.0, -2.0, 3.5], dtype=torch.bfloat16)
    tensors["f16"] = torch.tensor([1.0, -2.0, 3.5], dtype=torch.float16)
    tensors["i32"] = torch.tensor([[1, -2], [3, -4]], dtype=torch.int32).t()
    tensors["u8"] = torch.tensor([0, 255], dtype=torch.uint8)
    tensors["bool"] = torch.tensor([True, False])
    # What `Module.state_dict` adds: attributes of the dict, not entries.
    tensors._metadata = OrderedDict([("", {"version": 1})])
    return tensors


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/pickle")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state_dict(), folder / "archive.bin")
    torch.save(state_dict(), folder / "plain.bin", _use_new_zipfile_serialization=False)
    wrapped = {"epoch": 3, "lr": 0.1, "state_dict": state_dict(), "note": [None, True, "x"]}
    torch.save(wrapped, folder / "wrapped.bin", pickle_protocol=4)


if __name__ == "__main__":
    main()
