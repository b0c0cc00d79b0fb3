"""Checks that Python's transformers reads what `tx` saved.

    python roundtrip.py FOLDER REFERENCE.safetensors [FOLDER REFERENCE.safetensors ...]

Each REFERENCE is of a recorded case, `<model_type>/<case>/reference.safetensors`. Its FOLDER is loaded with the class that
its config.json names, without a missing, unexpected or mis-shaped tensor. Given the inputs of the reference file it has
to give the file's outputs. The tensor names in FOLDER have to be those of `weights.json`, which lies beside the reference
file: transformers reads several spellings, but writes one.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

from reference import Failed, distance, load, run  # first, for the environment it sets

import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file

from case import Case
from cases import CASES

TOLERANCE = 5e-5


def saved_names(folder: Path) -> set[str]:
    """The tensor names of a checkpoint, in one file or in shards."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        return set(json.loads(index.read_text())["weight_map"])
    with safe_open(folder / "model.safetensors", "numpy") as file:
        return set(file.keys())


def recorded(reference: Path) -> Case:
    """The case that a reference file is of, for the settings that it was recorded with."""
    model_type, name = reference.resolve().parts[-3:-1]
    for case in CASES.get(model_type, []):
        if case.name == name:
            return case
    raise Failed(f"{model_type}/{name} is in no table of cases")


def check(folder: Path, reference: Path) -> str:
    """Raises `Failed` with the difference, or returns what to print."""
    case = recorded(reference)
    if case.needs and importlib.util.find_spec(case.needs) is None:
        return f"left out, needs the package {case.needs}"
    found, expected = saved_names(folder), set(json.loads((reference.parent / "weights.json").read_text()))
    if found != expected:
        raise Failed(f"tensor names: missing {sorted(expected - found)}, too many {sorted(found - expected)}")

    architectures = json.loads((folder / "config.json").read_text()).get("architectures") or []
    if len(architectures) != 1 or not hasattr(transformers, architectures[0]):
        raise Failed(f"config.json: architectures is {architectures}, expected one class of transformers")
    arrays = load_file(reference)
    inputs = {name.removeprefix("inputs."): array for name, array in arrays.items() if name.startswith("inputs.")}
    expected = {name.removeprefix("outputs."): array for name, array in arrays.items() if name.startswith("outputs.")}
    outputs = run(case, load(case, getattr(transformers, architectures[0]), folder, torch.float32), inputs)
    if outputs.keys() != expected.keys():
        raise Failed(f"outputs are {sorted(outputs)}, expected {sorted(expected)}")
    worst, worst_name = 0.0, "none"
    for name, array in expected.items():
        if outputs[name].shape != array.shape:
            raise Failed(f"{name} has shape {list(outputs[name].shape)}, expected {list(array.shape)}")
        error = distance(outputs[name], array)
        if not error <= TOLERANCE:
            raise Failed(f"{name} differs by {error:.1e}, at most {TOLERANCE:.0e} is allowed")
        if error >= worst:
            worst, worst_name = error, name
    return f"{architectures[0]}, {len(expected)} outputs agree, worst {worst:.1e} ({worst_name})"


def main() -> int:
    parser = argparse.ArgumentParser(description="load folders saved by tx with Python's transformers and compare")
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="FOLDER REFERENCE.safetensors",
        help="a folder with config.json and model.safetensors, and the reference.safetensors of its case",
    )
    paths = parser.parse_args().paths
    if len(paths) % 2:
        parser.error("each folder needs a reference.safetensors after it")
    torch.set_num_threads(1)
    failed = False
    for folder, reference in zip(paths[::2], paths[1::2]):
        try:
            print(f"{folder}: {check(folder, reference)}", flush=True)
        except Exception as failure:
            message = str(failure).splitlines()[0] if str(failure) else ""
            print(f"{folder}: FAILED: {type(failure).__name__}: {message}", flush=True)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
