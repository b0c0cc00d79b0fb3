"""Records tests/data/train/peft with Python's peft, and checks that it reads the adapters that tx writes.

    python peft_adapters.py record --out DIR [--only NAME]
    python peft_adapters.py check FOLDER [FOLDER ...]

A folder holds an adapter as `save_pretrained` writes it, `adapter_config.json` and `adapter_model.safetensors`. Its
base model is a case, which the config names by the path from the root of the repository. `outputs.safetensors` has

    inputs.<argument>, labels      the arguments of `forward`
    outputs.logits, loss           with the adapter active
    merged.logits                  after `merge_and_unload`, where a method has it
    gradients.<tensor>             of the loss, under the names of adapter_model.safetensors
    encoder.<tensor>               the parameters that a projected prefix was computed from, which peft does not save;
    gradients.encoder.<tensor>     their gradients
    combined.<name>.logits         with an adapter that `add_weighted_adapter` made, or with several active at once

The arguments of the combinations are in `combinations.json`; the adapter `second` is in a folder of that name.

`check` loads the adapter without a missing or unexpected tensor and compares `outputs.logits`, and `merged.logits`
where the file has them; the adapter has to change the outputs of its base model. `cargo xtask roundtrip --adapters`
calls it for adapters that tx has trained, which name their base model by an absolute path.

In what is recorded the values of all parameters come from the recipe in synth.py. Everything is computed in float64
too, and has to be the same.
"""

import argparse
import copy
import json
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from reference import CONDITION, Failed, distance, exact_softmax, load  # first, for the environment it sets

import numpy as np
import peft
import torch
import transformers
from peft.utils import get_peft_model_state_dict
from safetensors.numpy import load_file, save

import synth
from case import Case
from training import condition

# The version that recorded the folders.
PEFT = "0.21.2"
ROOT = Path(__file__).resolve().parents[2]
# How far outputs may be apart in `check`: the largest difference, as part of the largest output.
TOLERANCE = 1e-5
# How far an adapter has to move the outputs at least, in the same measure.
EFFECT = 1e-2
# The most bytes of a folder.
LIMIT = 60_000
# Tokens of the longest text.
WIDTH = 8
IGNORED = -100
# Parts of names that peft saves although they say nothing new: embeddings as they were, and biases a second time.
OPTIONAL = (".base_layer.weight", ".modules_to_save.", ".original_module.")

LLAMA, BERT, GPT2 = "models/llama/causal-lm", "models/bert/sequence-classification", "models/gpt2/causal-lm"
TASKS = {LLAMA: "CAUSAL_LM", BERT: "SEQ_CLS", GPT2: "CAUSAL_LM"}


@dataclass(frozen=True)
class Adapter:
    """An adapter of a base model."""

    name: str
    base: str
    # The class of its config, without the end.
    method: str
    # Arguments of that class.
    config: dict = field(default_factory=dict)
    # Arguments that the second adapter has in place of these.
    second: dict | None = None
    # Arguments of `add_weighted_adapter`, by a name; without weights the adapters are active together.
    combinations: dict = field(default_factory=dict)
    # The first of the base model's recorded rows that is an input.
    first: int = 0


ATTENTION = ["q_proj", "v_proj"]
PAIR = dict(adapters=["default", "second"])
PREFIX = dict(num_virtual_tokens=3)

ADAPTERS = [
    Adapter("llama-lora", LLAMA, "Lora", dict(r=4, lora_alpha=6, lora_dropout=0.1)),
    Adapter("llama-lora-all-linear", LLAMA, "Lora", dict(r=2, target_modules="all-linear", use_rslora=True)),
    Adapter(
        "llama-lora-patterns",
        LLAMA,
        "Lora",
        dict(
            r=4,
            target_modules=["q_proj", "v_proj", "down_proj"],
            # The first pattern that fits decides; names fit at their end, after a dot.
            rank_pattern={r"layers\.1\..*v_proj": 1, "v_proj": 2},
            alpha_pattern={"down_proj": 12, "model.layers.0.self_attn.q_proj": 3},
        ),
    ),
    Adapter("llama-lora-regex", LLAMA, "Lora", dict(r=3, target_modules=r".*\.1\.(self_attn\.o_proj|mlp\..*_proj)")),
    Adapter(
        "llama-lora-one-layer",
        LLAMA,
        "Lora",
        dict(
            r=3,
            target_modules=["q_proj", "o_proj", "up_proj"],
            layers_to_transform=[1],
            layers_pattern="layers",
            exclude_modules=["o_proj"],
        ),
    ),
    Adapter("llama-lora-embedding", LLAMA, "Lora", dict(r=3, lora_alpha=4, target_modules=["embed_tokens", "q_proj"])),
    Adapter("llama-lora-modules-to-save", LLAMA, "Lora", dict(r=2, modules_to_save=["lm_head", "norm"])),
    Adapter("llama-dora", LLAMA, "Lora", dict(r=4, use_dora=True, target_modules=[*ATTENTION, "gate_proj"])),
    Adapter(
        "llama-lora-weighted",
        LLAMA,
        "Lora",
        dict(r=2, lora_alpha=4, target_modules=ATTENTION),
        second=dict(lora_alpha=2, target_modules=["q_proj", "o_proj"]),
        combinations=dict(
            linear=PAIR | dict(weights=[0.7, 0.4], combination_type="linear"),
            linear_negative=PAIR | dict(weights=[0.7, -0.4], combination_type="linear"),
            cat=PAIR | dict(weights=[0.7, -0.4], combination_type="cat"),
            svd=PAIR | dict(weights=[0.7, -0.4], combination_type="svd"),
            ties=PAIR | dict(weights=[1.0, 0.5], combination_type="ties", density=0.5),
            ties_frequency=PAIR
            | dict(weights=[1.0, 0.5], combination_type="ties", density=0.5, majority_sign_method="frequency"),
            magnitude_prune=PAIR | dict(weights=[1.0, 0.5], combination_type="magnitude_prune", density=0.5),
            both=PAIR,
        ),
        first=1,
    ),
    Adapter(
        "llama-lora-weighted-ranks",
        LLAMA,
        "Lora",
        dict(r=2, lora_alpha=4, target_modules=ATTENTION),
        # Not the first: peft passes its `use_rslora` on, and scales what is scaled already by the root of the rank.
        second=dict(r=3, use_rslora=True),
        combinations=dict(
            cat=PAIR | dict(weights=[0.7, 0.3], combination_type="cat"),
            svd=PAIR | dict(weights=[0.7, 0.3], combination_type="svd"),
            svd_rank=PAIR | dict(weights=[0.7, 0.3], combination_type="svd", svd_rank=1),
            ties_svd=PAIR | dict(weights=[1.0, 0.5], combination_type="ties_svd", density=0.5),
        ),
        first=1,
    ),
    Adapter("llama-ia3", LLAMA, "IA3"),
    Adapter("llama-prompt-tuning", LLAMA, "PromptTuning", PREFIX),
    Adapter("llama-prefix-tuning", LLAMA, "PrefixTuning", PREFIX),
    Adapter(
        "llama-prefix-tuning-projection",
        LLAMA,
        "PrefixTuning",
        PREFIX | dict(prefix_projection=True, encoder_hidden_size=10),
    ),
    Adapter("bert-lora", BERT, "Lora", dict(r=3)),
    Adapter("bert-lora-all-linear", BERT, "Lora", dict(r=2, target_modules="all-linear", lora_bias=True)),
    Adapter("bert-lora-bias", BERT, "Lora", dict(r=2, target_modules=["query", "output.dense"], bias="lora_only")),
    Adapter("bert-lora-bias-all", BERT, "Lora", dict(r=2, bias="all")),
    Adapter("bert-dora", BERT, "Lora", dict(r=3, use_dora=True, target_modules=["query", "intermediate.dense"])),
    Adapter("bert-ia3", BERT, "IA3"),
    Adapter("bert-prompt-tuning", BERT, "PromptTuning", PREFIX),
    Adapter("bert-prefix-tuning", BERT, "PrefixTuning", PREFIX),
    Adapter(
        "bert-prefix-tuning-projection",
        BERT,
        "PrefixTuning",
        PREFIX | dict(prefix_projection=True, encoder_hidden_size=10),
    ),
    Adapter("gpt2-lora", GPT2, "Lora", dict(r=3, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)),
    Adapter("gpt2-dora", GPT2, "Lora", dict(r=2, use_dora=True, fan_in_fan_out=True)),
    Adapter("gpt2-ia3", GPT2, "IA3", dict(fan_in_fan_out=True)),
    Adapter("gpt2-prompt-tuning", GPT2, "PromptTuning", PREFIX),
    Adapter("gpt2-prefix-tuning", GPT2, "PrefixTuning", PREFIX),
]


def base_model(case: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model of a folder with config.json and either weights.json or model.safetensors."""
    config = json.loads((case / "config.json").read_text())
    (name,) = config["architectures"]
    model_class = getattr(transformers, name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = case
        if (case / "weights.json").exists():
            folder = Path(temporary)
            shutil.copyfile(case / "config.json", folder / "config.json")
            synth.write_checkpoint(json.loads((case / "weights.json").read_text()), folder)
        return load(Case(case.name, name, {}), model_class, folder, dtype)


def fill(model: torch.nn.Module, key: str) -> None:
    """Gives every parameter that an adapter trains values of its own."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue

            def values(std: float, mean: float = 0.0) -> torch.Tensor:
                return torch.from_numpy(synth.values(f"{key}/{name}", list(parameter.shape), mean, std))

            if "lora_magnitude_vector" in name:
                parameter.mul_(values(0.2, 1.0))
            elif "ia3_l" in name:
                parameter.copy_(values(0.3, 1.0))
            elif "lora_" in name:
                parameter.copy_(values(0.2))
            elif "prompt_encoder" in name:
                parameter.copy_(values(0.15 if name.endswith("bias") else 0.8 if "embedding" in name else 0.3))
            else:
                # A copy of the base model's, or the base model's own: biases, and modules that are saved whole.
                parameter.add_(values(0.15))


def forward(model: torch.nn.Module, inputs: dict[str, np.ndarray], **more) -> dict:
    """The outputs for arrays."""
    return model(**{name: torch.from_numpy(array.copy()) for name, array in inputs.items()}, **more, return_dict=True)


def logits(model: torch.nn.Module, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The logits alone."""
    with torch.no_grad():
        return forward(model, inputs)["logits"].numpy()


def gradients(model: peft.PeftModel) -> dict[str, np.ndarray]:
    """What the backward pass left, under the names of adapter_model.safetensors."""
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    config, encoder = model.peft_config["default"], "prompt_encoder.default."
    named = get_peft_model_state_dict(model, state_dict=found, save_embedding_layers=False)
    named.pop("prompt_embeddings", None)
    parts = {name.removeprefix(encoder): grad for name, grad in found.items() if name.startswith(encoder)}
    if getattr(config, "prefix_projection", False):
        named |= {f"encoder.{name}": grad for name, grad in parts.items()}
    elif parts:
        named["prompt_embeddings"] = parts["embedding.weight"]
    if not {id(grad) for grad in found.values()} <= {id(grad) for grad in named.values()}:
        raise Failed(f"{len(found)} parameters have a gradient, of which peft names {len(named)}")
    return {f"gradients.{name}": grad.numpy() for name, grad in named.items()}


def combine(model: peft.PeftModel, combinations: dict, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The logits of every combination."""
    arrays = {}
    for name, arguments in combinations.items():
        if "weights" in arguments:
            model.add_weighted_adapter(adapter_name=name, **arguments)
        model.base_model.set_adapter(name if "weights" in arguments else arguments["adapters"])
        arrays[f"combined.{name}.logits"] = logits(model, inputs)
    return arrays


def compute(adapter: Adapter, model: peft.PeftModel, inputs: dict, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that is recorded of a model with an adapter."""
    result = forward(model, inputs, labels=torch.from_numpy(labels))
    result["loss"].backward()
    arrays = {"outputs.logits": result["logits"].detach().numpy(), "loss": result["loss"].detach().reshape(1).numpy()}
    arrays |= gradients(model)
    model.zero_grad()
    encoder = "prompt_encoder.default."
    if getattr(model.peft_config["default"], "prefix_projection", False):
        parameters = {name: p for name, p in model.named_parameters() if name.startswith(encoder)}
        arrays |= {f"encoder.{name.removeprefix(encoder)}": p.detach().numpy() for name, p in parameters.items()}
    if hasattr(model.base_model, "merge_and_unload"):
        arrays["merged.logits"] = logits(copy.deepcopy(model).merge_and_unload(), inputs)
        if distance(arrays["merged.logits"], arrays["outputs.logits"]) > CONDITION:
            raise Failed("merged, the adapter gives something else")
    return arrays | combine(model, adapter.combinations, inputs)


def labels_for(model: peft.PeftModel, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The tokens themselves for a language model, and for a classifier the classes that would surprise it most."""
    if model.peft_config["default"].task_type == "CAUSAL_LM":
        return np.where(inputs["attention_mask"] != 0, inputs["input_ids"], IGNORED)
    return logits(model, inputs).argmin(-1)


def write_adapter(model: peft.PeftModel, base: str, folder: Path) -> None:
    """`save_pretrained`, without what differs between two runs."""
    names = [name for name in ("default", "second") if name in model.peft_config]
    with tempfile.TemporaryDirectory() as temporary:
        model.save_pretrained(temporary, selected_adapters=names)
        for name in names:
            source = Path(temporary) if name == "default" else Path(temporary) / name
            target = folder if name == "default" else folder / name
            target.mkdir(parents=True, exist_ok=True)
            config = json.loads((source / "adapter_config.json").read_text()) | dict(base_model_name_or_path=base)
            # Sets of names, in the order of a hash.
            sets = ("target_modules", "feedforward_modules", "exclude_modules")
            config |= {key: sorted(config[key]) for key in sets if isinstance(config.get(key), list)}
            (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
            (target / "adapter_model.safetensors").write_bytes((source / "adapter_model.safetensors").read_bytes())


def record(adapter: Adapter, out: Path) -> str:
    """Writes one folder. Returns what to print."""
    base = ROOT / adapter.base
    recorded = load_file(base / "reference.safetensors")
    inputs = {
        name.removeprefix("inputs."): np.ascontiguousarray(array[adapter.first :, :WIDTH])
        for name, array in recorded.items()
        if name.startswith("inputs.")
    }
    config_class = getattr(peft, f"{adapter.method}Config")
    task = TASKS[adapter.base]
    plain = base_model(base, torch.float32)
    without = logits(plain, inputs)
    model = peft.get_peft_model(plain, config_class(task_type=task, **adapter.config)).eval()
    fill(model, f"{adapter.name}/default")
    if adapter.second is not None:
        model.add_adapter("second", config_class(task_type=task, **adapter.config | adapter.second))
        model.set_adapter("second")
        fill(model, f"{adapter.name}/second")
        model.set_adapter("default")

    labels = labels_for(model, inputs)

    folder = out / adapter.name
    write_adapter(model, adapter.base, folder)
    double = copy.deepcopy(model).double()
    arrays = compute(adapter, model, inputs, labels)
    with exact_softmax():
        exact = compute(adapter, double, inputs, labels)
    # Some biases have no gradient but rounding, which is nothing to the whole.
    whole = np.sqrt(sum(np.linalg.norm(array) ** 2 for name, array in exact.items() if name.startswith("gradients.")))
    floors = {name: 1e-2 * whole if name.startswith("gradients.") else 0.0 for name in arrays}
    worst = condition(arrays, exact, floors)
    # The logits of virtual tokens come before the others.
    effect = distance(arrays["outputs.logits"][:, -without.shape[1] :], without)
    if effect < 0.05:
        raise Failed(f"the adapter hardly changes anything: {effect:.1e}")

    arrays |= {f"inputs.{name}": array for name, array in inputs.items()} | {"labels": labels}
    arrays = {
        name: np.ascontiguousarray(array, np.float32 if array.dtype == np.float64 else array.dtype)
        for name, array in arrays.items()
    }
    (folder / "outputs.safetensors").write_bytes(save(arrays, metadata={"producer": f"peft {peft.__version__}"}))
    if adapter.combinations:
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in adapter.combinations.items()]
        (folder / "combinations.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > LIMIT:
        raise Failed(f"{size} bytes, at most {LIMIT} are allowed")
    return f"{size / 1000:.0f} kB, effect {effect:.2f}, f32 to f64 {worst:.1e}; {check(folder)}"


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, as part of the largest of the elements."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def same(name: str, found: np.ndarray, expected: np.ndarray) -> float:
    """How far two outputs are apart; raises `Failed` if that is too far."""
    if found.shape != expected.shape:
        raise Failed(f"{name} has shape {list(found.shape)}, expected {list(expected.shape)}")
    error = largest(found, expected)
    if not error <= TOLERANCE:
        raise Failed(f"{name} differs by {error:.1e}, at most {TOLERANCE:.0e} is allowed")
    return error


def check(folder: Path) -> str:
    """Loads an adapter with peft and compares outputs. Raises `Failed`, or returns what to print."""
    config = peft.PeftConfig.from_pretrained(folder)
    # An absolute path stays as it is.
    base = ROOT / (config.base_model_name_or_path or "")
    if not (base / "config.json").exists():
        raise Failed(f"adapter_config.json: base_model_name_or_path is {config.base_model_name_or_path}: no folder")
    config.base_model_name_or_path = str(base)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plain = base_model(base, torch.float32)
        arrays = load_file(folder / "outputs.safetensors")
        inputs = {name.removeprefix("inputs."): array for name, array in arrays.items() if name.startswith("inputs.")}
        without = logits(plain, inputs)
        model = peft.PeftModel.from_pretrained(plain, folder, config=config)
    for warning in caught:
        if "missing adapter keys" in str(warning.message):
            raise Failed(str(warning.message))
    found = {name: array.shape for name, array in load_file(folder / "adapter_model.safetensors").items()}
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    for name in sorted(found.keys() | expected.keys()):
        optional = name not in found and any(part in name for part in OPTIONAL)
        if found.get(name) != expected.get(name) and not optional:
            raise Failed(f"adapter_model.safetensors: {name} is {found.get(name)}, peft has {expected.get(name)}")

    adapted = logits(model, inputs)
    # The logits of virtual tokens come before the others.
    effect = largest(adapted[:, -without.shape[1] :], without)
    if not effect >= EFFECT:
        raise Failed(f"the adapter hardly changes anything: {effect:.1e}")
    errors = {"outputs.logits": same("outputs.logits", adapted, arrays["outputs.logits"])}
    if "merged.logits" in arrays:
        merged = logits(model.merge_and_unload(), inputs)
        errors["merged.logits"] = same("merged.logits", merged, arrays["merged.logits"])
    what = f"{config.peft_type.value}, {len(found)} tensors, effect {effect:.2f}"
    return f"{what}; {len(errors)} outputs agree, worst {max(errors.values()):.1e}"


def main() -> int:
    parser = argparse.ArgumentParser(description="record adapters with Python's peft, or check those of tx")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("record", help="write the recorded folders")
    command.add_argument("--out", type=Path, required=True, help="the folder tests/data/train/peft")
    command.add_argument("--only", help="only the folder of this name")
    command = commands.add_parser("check", help="load folders with peft and compare")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="an adapter with outputs.safetensors")
    args = parser.parse_args()
    if args.command == "record" and peft.__version__ != PEFT:
        parser.error(f"peft {peft.__version__} is installed, the adapters are recorded with {PEFT}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    if args.command == "record":
        work = {f"{a.name}": lambda a=a: record(a, args.out) for a in ADAPTERS if args.only in (None, a.name)}
    else:
        work = {str(folder): lambda folder=folder: check(folder) for folder in args.folders}
    failed = False
    for name, run in work.items():
        try:
            print(f"{name}: {run()}", flush=True)
        except Exception as failure:
            failed = True
            message = " ".join(f"{type(failure).__name__}: {failure}".split())
            print(f"{name}: FAILED: {message}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
