"""Records the reference cases in `models/<model_type>/<case>/` with Python's transformers.

    python reference.py --models DIR [--case NAME] [MODEL_TYPE ...]

For each case: the class is built from its config and saved once to learn which tensors, under which names, HF writes;
synthetic weights for those names are loaded back, without a missing, unexpected or mis-shaped tensor; the model runs
in eager attention on one thread. Written are `config.json`, `weights.json` and `reference.safetensors` with
`inputs.<forward argument>` and `outputs.<output field>` (`outputs.hidden_states.0`, `outputs.attentions.0`, ...).
The same weights in float64 have to give the same outputs, or the case would measure rounding instead of the model.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import save_file

import synth
from case import REMOVED, Case
from cases import CASES

transformers.logging.disable_progress_bar()

# Largest relative L2 distance between the float32 and the float64 outputs.
CONDITION = 1e-5


class Failed(Exception):
    """A case that cannot be recorded."""


def std(case: Case, name: str, shape: list[int]) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near one and leave no tensor without effect."""
    norm = "norm" in name.lower()
    mean = 1.0 if norm and name.endswith("weight") else 0.0
    for part, value in case.stds.items():
        if part in name:
            return mean, value
    if norm or len(shape) < 2:
        return mean, 0.15
    if name.endswith(("embeddings.weight", "relative_attention_bias.weight")):
        return mean, 0.8
    # Two decimals: weights.json is read by people too.
    return mean, round(1.2 / math.sqrt(math.prod(shape[1:])), 2)


def describe(case: Case, folder: Path) -> dict:
    """weights.json: the tensors that HF wrote to the folder."""
    weights = {}
    with safe_open(folder / "model.safetensors", "numpy") as file:
        for name in sorted(file.keys()):
            shape = file.get_slice(name).get_shape()
            mean, deviation = std(case, name, shape)
            weights[name] = {"shape": shape, "mean": mean, "std": deviation}
            if case.dtype != "f32":
                weights[name]["dtype"] = case.dtype
    return weights


def edit_config(case: Case, model_class: type, folder: Path) -> dict:
    """Applies the case's edits to the config.json that HF wrote, and returns it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if case.sparse:
        default = model_class.config_class().to_dict()
        kept = ("architectures", "model_type")
        config = {key: value for key, value in config.items() if key in kept or default.get(key, REMOVED) != value}
    if case.dtype != "f32":
        config["dtype"] = {"bf16": "bfloat16", "f16": "float16"}[case.dtype]
    for key, value in case.file.items():
        config.pop(key, None)
        if value is not REMOVED:
            config[key] = value
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return config


def load(case: Case, model_class: type, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """from_pretrained that accepts nothing but a complete and exact checkpoint."""
    model, info = model_class.from_pretrained(
        folder,
        attn_implementation=case.attention,
        experts_implementation="eager",
        dtype=dtype,
        output_loading_info=True,
    )
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise Failed(f"from_pretrained: {problems}")
    return model.eval()


def run(case: Case, model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a forward pass by HF's names, tuples numbered; caches left out."""
    arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
    maps = case.attention == "eager"
    with torch.no_grad():
        result = model(**arguments, output_hidden_states=True, output_attentions=maps, return_dict=True)
    outputs = {}
    for name, value in result.items():
        if name in ("past_key_values", "cache_params") or value is None:
            continue
        if isinstance(value, torch.Tensor):
            outputs[name] = value.numpy()
        else:
            outputs |= {f"{name}.{index}": item.numpy() for index, item in enumerate(value)}
    return outputs


@contextlib.contextmanager
def exact_softmax():
    """Lets softmax stay in float64 where a model asks for float32.

    Besides the rounding, a row of float64's lowest value turns into negative infinities in float32, and those into NaN.
    """
    softmax = torch.nn.functional.softmax
    torch.nn.functional.softmax = lambda scores, dim, dtype=None: softmax(scores, dim=dim)
    try:
        yield
    finally:
        torch.nn.functional.softmax = softmax


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance."""
    difference = np.linalg.norm(found.astype(np.float64) - expected.astype(np.float64))
    return float(difference / np.linalg.norm(expected.astype(np.float64)))


def record(model_type: str, case: Case, models: Path) -> tuple[float, int, list[str]]:
    """Writes one case. Returns the worst float32 to float64 distance, the bytes written and the outputs' names."""
    model_class = getattr(transformers, case.model_class)
    if model_class.config_class.model_type != model_type:
        raise Failed(f"{case.model_class} is of model type {model_class.config_class.model_type}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model_class(model_class.config_class(**case.config)).save_pretrained(folder)
        weights = describe(case, folder)
        config = edit_config(case, model_class, folder)
        synth.write_checkpoint(weights, folder)

        inputs = case.inputs.build(f"{model_type}/{case.name}", config["vocab_size"])
        outputs = run(case, load(case, model_class, folder, torch.float32), inputs)
        with exact_softmax():
            exact = run(case, load(case, model_class, folder, torch.float64), inputs)

    broken = [name for name in outputs if not (np.isfinite(outputs[name]).all() and np.isfinite(exact[name]).all())]
    if broken:
        raise Failed(f"outputs {broken} are not finite")
    worst = max(distance(outputs[name], exact[name]) for name in outputs)
    if worst > CONDITION:
        raise Failed(f"float32 and float64 differ by {worst:.1e}, at most {CONDITION:.0e} is allowed: lower the stds")
    flat = [name for name in outputs if "attentions" not in name and outputs[name].std() < 0.02]
    if flat:
        raise Failed(f"outputs {flat} hardly vary: raise the stds")

    target = models / model_type / case.name
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    lines = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in weights.items()]
    (target / "weights.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    arrays = {f"inputs.{name}": array for name, array in inputs.items()}
    arrays |= {f"outputs.{name}": np.ascontiguousarray(array, np.float32) for name, array in outputs.items()}
    # One metadata key only: the writer orders several at random.
    metadata = {"producer": f"transformers {transformers.__version__}"}
    save_file(arrays, target / "reference.safetensors", metadata=metadata)
    return worst, sum(path.stat().st_size for path in target.iterdir()), list(outputs)


def pinned_version() -> str:
    """The transformers version of requirements.txt."""
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if line.startswith("transformers=="):
            return line.removeprefix("transformers==").strip()
    raise Failed("requirements.txt pins no transformers")


def main() -> int:
    parser = argparse.ArgumentParser(description="record reference cases with Python's transformers")
    parser.add_argument("--models", type=Path, required=True, help="the folder with one folder per model type")
    parser.add_argument("--case", help="only the case of this name")
    parser.add_argument("model_types", nargs="*", metavar="MODEL_TYPE", help=f"of {', '.join(CASES)} (default: all)")
    args = parser.parse_args()
    unknown = [name for name in args.model_types if name not in CASES]
    if unknown:
        parser.error(f"no cases for {', '.join(unknown)}; there are cases for {', '.join(CASES)}")
    installed, pinned = importlib.metadata.version("transformers"), pinned_version()
    if installed != pinned:
        parser.error(f"transformers {installed} is installed, references are recorded with {pinned} (requirements.txt)")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    failures, count, total, worst = 0, 0, 0, 0.0
    for model_type in args.model_types or CASES:
        for case in CASES[model_type]:
            if args.case not in (None, case.name):
                continue
            count += 1
            try:
                error, size, names = record(model_type, case, args.models)
            except Exception as failure:
                failures += 1
                print(f"{model_type}/{case.name}: FAILED: {type(failure).__name__}: {failure}", file=sys.stderr)
                continue
            total, worst = total + size, max(worst, error)
            fields = " ".join(dict.fromkeys(name.split(".")[0] for name in names))
            print(f"{model_type}/{case.name}: {size / 1024:.0f} KiB, f32 to f64 {error:.1e}, {fields}", flush=True)
        if args.case is None and (args.models / model_type).is_dir():
            known = {case.name for case in CASES[model_type]}
            for folder in sorted((args.models / model_type).iterdir()):
                if folder.is_dir() and folder.name not in known:
                    print(f"{folder}: no longer in the tables, remove it", file=sys.stderr)
    print(f"{count - failures} cases, {total / 1024:.0f} KiB, worst f32 to f64 {worst:.1e}, {failures} failed")
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
