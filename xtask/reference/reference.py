"""Records the reference cases in `models/<model_type>/<case>/` with Python's transformers.

    python reference.py --models DIR [--case NAME] [MODEL_TYPE ...]

For each case: the class is built from its config and saved once to learn which tensors, under which names, HF writes;
synthetic weights for those names are loaded back, without a missing, unexpected or mis-shaped tensor; the model runs
in eager attention on one thread. Written are `config.json`, `weights.json` and `reference.safetensors` with
`inputs.<forward argument>` and `outputs.<output field>` (`outputs.hidden_states.0`, `outputs.attentions.0`,
`outputs.text_model_output.pooler_output`, ...).
The same weights in float64 have to give the same outputs, or the case would measure rounding instead of the model.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import re
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

import packed
import synth
from case import REMOVED, Case
from cases import CASES

transformers.logging.disable_progress_bar()

# Largest relative L2 distance between the float32 and the float64 outputs.
CONDITION = 1e-5

# Tensors that have to be positive.
POSITIVE = ("running_var", "weight_g", "parametrizations.weight.original0")
# Parameters that stand beside embedded patches, which are near one.
TOKENS = ("position_embeddings", "cls_token", "mask_token", "distillation_token", "detection_tokens")
# Outputs that are recorded nowhere: states for the next step, and what needs labels.
LEFT_OUT = ("past_key_values", "cache_params", "loss")


class Failed(Exception):
    """A case that cannot be recorded."""


def std(case: Case, name: str, shape: list[int], names: set[str]) -> tuple[float, float]:
    """Mean and standard deviation that keep activations near one and leave no tensor without effect."""
    # Variances, and the lengths that weight normalisation gives its vectors, are positive.
    if name.endswith(POSITIVE):
        return 1.0, 0.1
    norm = "norm" in name.lower() or f"{name.rpartition('.')[0]}.running_var" in names
    mean = 1.0 if norm and name.endswith("weight") else 0.0
    for part, value in case.stds.items():
        if part in name:
            return value if isinstance(value, tuple) else (mean, value)
    if norm or len(shape) < 2:
        return mean, 0.15
    if name.endswith(("embeddings.weight", "relative_attention_bias.weight", *TOKENS)):
        return mean, 0.8
    # Two decimals: weights.json is read by people too.
    return mean, round(1.2 / math.sqrt(math.prod(shape[1:])), 2)


def describe(case: Case, folder: Path) -> dict:
    """weights.json: the tensors that HF wrote to the folder."""
    weights = {}
    with safe_open(folder / "model.safetensors", "numpy") as file:
        names = set(file.keys())
        for name in sorted(names):
            # Integers follow from the config, or count the steps of training: they are nothing to load.
            if "F" not in file.get_slice(name).get_dtype():
                continue
            shape = file.get_slice(name).get_shape()
            mean, deviation = std(case, name, shape, names)
            for pattern, spelling in case.names.items():
                name = re.sub(pattern, spelling, name)
            weights[name] = {"shape": shape, "mean": mean, "std": deviation}
            if case.dtype != "f32":
                weights[name]["dtype"] = case.dtype
    return dict(sorted(packed.pack(weights, case.packed).items()))


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
    tensors = model.state_dict()
    info["missing_keys"] = [name for name in info["missing_keys"] if tensors[name].is_floating_point()]
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise Failed(f"from_pretrained: {problems}")
    return model.eval()


def flatten(name: str, value) -> dict[str, np.ndarray]:
    """Tuples numbered; the tensors of an output within an output, without that one's tuples."""
    if name in LEFT_OUT or value is None:
        return {}
    if isinstance(value, torch.Tensor):
        return {name: value.numpy()}
    if isinstance(value, dict):
        tensors = {key: item for key, item in value.items() if isinstance(item, torch.Tensor)}
        return {f"{name}.{key}": item.numpy() for key, item in tensors.items()}
    return {f"{name}.{index}": item.numpy() for index, item in enumerate(value)}


def run(case: Case, model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All outputs of a forward pass by HF's names."""
    arguments = {name: torch.from_numpy(array) for name, array in inputs.items()}
    arguments = {
        name: tensor.to(model.dtype) if tensor.is_floating_point() else tensor for name, tensor in arguments.items()
    }
    settings = dict(output_hidden_states=case.layers, return_dict=True)
    # Not every network of convolutions knows the argument.
    if case.layers and case.attention == "eager":
        settings["output_attentions"] = True
    with torch.no_grad():
        result = model(**arguments, **settings | case.arguments)
    outputs = {}
    for name, value in result.items():
        outputs |= flatten(name, value)
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
    return float(difference / np.linalg.norm(expected.astype(np.float64))) if difference else 0.0


def record(model_type: str, case: Case, models: Path) -> tuple[float, int, list[str]]:
    """Writes one case. Returns the worst float32 to float64 distance, the bytes written and the outputs' names."""
    model_class = getattr(transformers, case.model_class)
    # The towers of a model that joins modalities have types of their own.
    towers = [f"{model_type}_{part}_model" for part in ("text", "vision", "audio")]
    if model_class.config_class.model_type not in (model_type, *towers):
        raise Failed(f"{case.model_class} is of model type {model_class.config_class.model_type}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model_class(model_class.config_class(**case.config)).save_pretrained(folder)
        weights = describe(case, folder)
        config = edit_config(case, model_class, folder)
        if case.packed:
            # Python's own way from a packed file to these tensors asks for a package and a device.
            plain = {key: value for key, value in config.items() if key != "quantization_config"}
            (folder / "config.json").write_text(json.dumps(plain))
        synth.write_checkpoint(weights, folder, packed.unpack)

        inputs = case.inputs.build(f"{model_type}/{case.name}", config)
        outputs = run(case, load(case, model_class, folder, torch.float32), inputs)
        with exact_softmax():
            exact = run(case, load(case, model_class, folder, torch.float64), inputs)

    broken = [name for name in outputs if not (np.isfinite(outputs[name]).all() and np.isfinite(exact[name]).all())]
    if broken:
        raise Failed(f"outputs {broken} are not finite")
    worst = max(distance(outputs[name], exact[name]) for name in outputs)
    if worst > CONDITION:
        raise Failed(f"float32 and float64 differ by {worst:.1e}, at most {CONDITION:.0e} is allowed: lower the stds")
    # Queries of a decoder may begin as zeros.
    several = [name for name in outputs if "attentions" not in name and outputs[name].size > 1]
    several = [name for name in several if name != "decoder_hidden_states.0" or outputs[name].any()]
    flat = [name for name in several if outputs[name].std() < 0.02]
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
            if case.needs and importlib.util.find_spec(case.needs) is None:
                print(f"{model_type}/{case.name}: left as it is, needs the package {case.needs}", file=sys.stderr)
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
