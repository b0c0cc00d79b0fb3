"""Records tests/data/train/{gradients,losses} with Python's transformers.

    python training.py --out DIR --models DIR [--only NAME] [SECTION ...]    sections: gradients, losses (default: both)

Every recording is a file `<name>.safetensors` and a folder `<name>` with the `config.json` and the `weights.json` of
its model, which is a case of `models/`, most of them made smaller.

A file in `gradients` has the arguments of `forward` as `inputs.<argument>`, `labels`, the `outputs.logits`, the `loss`
that the model computes from them, and `gradients.<tensor>` under the names that HF gives the tensors of a checkpoint. A
tensor that the loss does not depend on is left out. Dropout is off, and batch normalisation uses its stored statistics.

A file in `losses` has what ten steps of HF's Trainer do, on batches of its own for each step: `inputs.<argument>` and
`labels` of shape `[steps, accumulation, batch, ..]`, `losses`, `gradient_norms` (before clipping) and `learning_rates`
of shape `[steps]`, and `final.<tensor>`, the weights after the last step. The folder has the `training_args.json`
besides. The same steps written out in `by_hand` have to give the same numbers. This section needs the package
accelerate.

The same in float64 has to give the same, or the recording would measure rounding.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

from reference import CONDITION, Failed, describe, distance, edit_config, exact_softmax, load  # sets the environment

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save

import synth
from case import Case
from cases import CASES

SECTIONS = ("gradients", "losses")
# Tokens that have no label.
IGNORED = -100
# The most bytes of a recording.
LIMIT = 60_000

STEPS = 10
WARMUP = 2
BATCH = 3
# Tokens of the longest row.
WIDTH = 11
# How far the losses of `by_hand` may be from those of the Trainer.
SAME = 1e-6


@dataclass(frozen=True)
class Subject:
    """A case of `models/`, and what its model is given for training."""

    name: str
    # <model_type>/<case>
    case: str
    # Keyword arguments of HF's config class, over those of the case.
    edits: dict = field(default_factory=dict)
    # Arguments of HF's Trainer, over ARGUMENTS.
    arguments: dict = field(default_factory=dict)


SMALL = dict(vocab_size=40, hidden_size=16, intermediate_size=24)
GPT2 = dict(vocab_size=40, n_embd=16, n_inner=24, n_layer=2, n_positions=16)
BERT = SMALL | dict(max_position_embeddings=24)
MAMBA = dict(vocab_size=40, hidden_size=16, state_size=4, num_hidden_layers=2)
NO_DROPOUT = dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)

GRADIENTS = [
    Subject("bert-masked-lm", "bert/masked-lm", BERT),
    Subject("bert-sequence-classification", "bert/sequence-classification", BERT),
    Subject("bert-token-classification", "bert/token-classification", BERT),
    Subject("bloom-causal-lm", "bloom/causal-lm", dict(vocab_size=40, hidden_size=16, n_layer=2)),
    Subject("deberta-v2-sequence-classification", "deberta-v2/sequence-classification", BERT),
    Subject(
        "deepseek_v3-causal-lm",
        "deepseek_v3/causal-lm",
        SMALL
        | dict(
            num_hidden_layers=2,
            moe_intermediate_size=8,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            num_experts_per_tok=2,
            kv_lora_rank=8,
            q_lora_rank=12,
            qk_nope_head_dim=6,
            qk_rope_head_dim=4,
            v_head_dim=5,
        ),
    ),
    Subject("gemma2-causal-lm", "gemma2/causal-lm", SMALL | dict(head_dim=8)),
    Subject("gpt2-causal-lm", "gpt2/causal-lm", GPT2),
    Subject(
        "gpt_oss-causal-lm",
        "gpt_oss/causal-lm",
        SMALL
        | dict(intermediate_size=8, head_dim=8, num_attention_heads=2, num_key_value_heads=1, num_local_experts=3),
    ),
    Subject("llama-causal-lm", "llama/causal-lm", SMALL),
    Subject("llama-causal-lm-tied", "llama/causal-lm-tied", SMALL),
    Subject("llama-sequence-classification", "llama/sequence-classification", SMALL),
    Subject("mamba-causal-lm", "mamba/causal-lm", MAMBA),
    Subject("mamba2-causal-lm", "mamba2/causal-lm", MAMBA | dict(num_heads=4)),
    Subject("mixtral-causal-lm", "mixtral/causal-lm", SMALL | dict(intermediate_size=12, num_local_experts=4)),
    Subject("modernbert-masked-lm", "modernbert/masked-lm", SMALL),
    Subject("phi3-causal-lm", "phi3/causal-lm", SMALL),
    Subject("qwen3-causal-lm", "qwen3/causal-lm", SMALL),
    Subject("audio-spectrogram-transformer-audio-classification", "audio-spectrogram-transformer/audio-classification"),
    Subject("beit-image-classification", "beit/image-classification"),
    Subject("convnext-image-classification", "convnext/image-classification"),
    Subject("dinov2-image-classification", "dinov2/image-classification"),
    Subject("resnet-image-classification", "resnet/image-classification"),
    Subject("swin-image-classification", "swin/image-classification"),
    Subject("vit-image-classification", "vit/image-classification"),
    Subject("wav2vec2-sequence-classification", "wav2vec2/sequence-classification"),
    Subject("whisper-conditional-generation", "whisper/conditional-generation-layers"),
]

ACCUMULATION = dict(gradient_accumulation_steps=2)
SMOOTHING = dict(label_smoothing_factor=0.1)

LOSSES = [
    Subject("bert-sequence-classification", "bert/sequence-classification", BERT | NO_DROPOUT),
    Subject("bert-sequence-classification-smoothing", "bert/sequence-classification", BERT | NO_DROPOUT, SMOOTHING),
    Subject("llama-causal-lm", "llama/causal-lm", SMALL),
    Subject("llama-causal-lm-accumulation", "llama/causal-lm", SMALL, ACCUMULATION),
    Subject("llama-causal-lm-accumulation-smoothing", "llama/causal-lm", SMALL, ACCUMULATION | SMOOTHING),
    # Some of the gradients are shorter than this, others longer.
    Subject("llama-causal-lm-smoothing", "llama/causal-lm", SMALL, SMOOTHING | dict(max_grad_norm=4.0)),
]

# HF's names and, where it has no reason to be another, HF's default.
ARGUMENTS = dict(
    max_steps=STEPS,
    per_device_train_batch_size=BATCH,
    gradient_accumulation_steps=1,
    optim="adamw_torch",
    learning_rate=1e-3,
    weight_decay=0.01,
    adam_beta1=0.9,
    adam_beta2=0.999,
    adam_epsilon=1e-8,
    max_grad_norm=1.0,
    lr_scheduler_type="linear",
    warmup_steps=WARMUP,
    label_smoothing_factor=0.0,
)


class Checkpoint:
    """The model of a subject, in a folder as HF reads it."""

    def __init__(self, subject: Subject, models: Path, folder: Path):
        self.folder = folder
        source = models / subject.case
        if not source.is_dir():
            raise Failed(f"{source}: no such case")
        self.inputs = {
            name.removeprefix("inputs."): array
            for name, array in load_file(source / "reference.safetensors").items()
            if name.startswith("inputs.")
        }
        if subject.edits:
            model_type, name = subject.case.split("/")
            (case,) = [case for case in CASES[model_type] if case.name == name]
            self.case = replace(case, config=case.config | subject.edits)
            self.model_class = getattr(transformers, case.model_class)
            self.model_class(self.model_class.config_class(**self.case.config)).save_pretrained(folder)
            self.weights = describe(self.case, folder)
            self.config = edit_config(self.case, self.model_class, folder)
            # Ids 0 to 4 are special tokens.
            vocab, ids = self.config["vocab_size"], self.inputs["input_ids"]
            self.inputs["input_ids"] = np.where(ids < vocab, ids, 5 + ids % (vocab - 5))
        else:
            shutil.copyfile(source / "config.json", folder / "config.json")
            self.config = json.loads((source / "config.json").read_text())
            self.weights = json.loads((source / "weights.json").read_text())
            (model_class,) = self.config["architectures"]
            self.case = Case(subject.case, model_class, {})
            self.model_class = getattr(transformers, model_class)
        synth.write_checkpoint(self.weights, folder)

    def load(self, dtype: torch.dtype) -> torch.nn.Module:
        """The model, without dropout."""
        return load(self.case, self.model_class, self.folder, dtype)

    def write(self, target: Path) -> None:
        """Writes what the model can be made from."""
        target.mkdir(parents=True, exist_ok=True)
        (target / "config.json").write_text(json.dumps(self.config, indent=2, sort_keys=True) + "\n")
        lines = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in self.weights.items()]
        (target / "weights.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def saved(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The parameters of a model under the names that HF saves them by; what is not a number is left out."""
    parameters = {id(parameter) for parameter in model.parameters()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for tensor in model.state_dict(keep_vars=True).values():
            if id(tensor) not in parameters and tensor.is_floating_point():
                tensor.fill_(torch.nan)
        model.save_pretrained(folder)
        tensors = load_file(Path(folder) / "model.safetensors")
    numbers = {name: array for name, array in tensors.items() if array.dtype in (np.float32, np.float64)}
    return {name: array for name, array in numbers.items() if not np.isnan(array).all()}


def random(key: str, shape: tuple, limit: int) -> np.ndarray:
    """Integers below `limit`."""
    numbers = synth.random_u64(key, int(np.prod(shape))) >> np.uint64(40)
    return (numbers % np.uint64(limit)).astype(np.int64).reshape(shape)


def labels_for(key: str, checkpoint: Checkpoint, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Labels of the kind that the class takes."""
    model_class, config = checkpoint.model_class.__name__, checkpoint.config
    if model_class.endswith("ForConditionalGeneration"):
        return random(key, inputs["decoder_input_ids"].shape, config["vocab_size"])
    if model_class.endswith(("ForCausalLM", "LMHeadModel")):
        return np.where(inputs["attention_mask"] != 0, inputs["input_ids"], IGNORED)
    if model_class.endswith("ForMaskedLM"):
        hidden = (random(f"{key}/hidden", inputs["input_ids"].shape, 3) == 0) & (inputs["attention_mask"] != 0)
        return np.where(hidden, random(key, hidden.shape, config["vocab_size"]), IGNORED)
    classes = len(config["id2label"])
    if model_class.endswith("ForTokenClassification"):
        text = inputs["attention_mask"] != 0
        return np.where(text, random(key, text.shape, classes), IGNORED)
    batch = len(next(iter(inputs.values())))
    return random(key, (batch,), classes)


def forward(model: torch.nn.Module, inputs: dict[str, np.ndarray], **more) -> dict:
    """The outputs for arrays."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
    dtype = next(model.parameters()).dtype
    return model(**{name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}, **more)


def gradients(checkpoint: Checkpoint, labels: np.ndarray, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """The logits, the loss, and its gradient by every tensor."""
    model = checkpoint.load(dtype)
    result = forward(model, checkpoint.inputs, labels=torch.from_numpy(labels))
    result["loss"].backward()
    recorded = {
        "outputs.logits": result["logits"].detach().numpy(),
        "loss": result["loss"].detach().reshape(1).numpy(),
    }
    # A checkpoint may hold other parts than the module does; saving takes gradients apart as it does weights.
    for parameter in model.parameters():
        parameter.data = torch.full_like(parameter, torch.nan) if parameter.grad is None else parameter.grad
    arrays = saved(model)
    unknown = sorted(set(arrays) - set(checkpoint.weights))
    if unknown:
        raise Failed(f"HF saves {unknown}, which weights.json does not have")
    return recorded | {f"gradients.{name}": array for name, array in arrays.items()}


def record_gradients(subject: Subject, models: Path, out: Path) -> str:
    """Writes the gradients of one subject. Returns what to print."""
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Checkpoint(subject, models, Path(temporary))
        labels = labels_for(f"{subject.name}/labels", checkpoint, checkpoint.inputs)
        arrays = gradients(checkpoint, labels, torch.float32)
        with exact_softmax():
            exact = gradients(checkpoint, labels, torch.float64)
    names = [name for name in arrays if name.startswith("gradients.")]
    # A bias of keys changes no probability: its gradient is zero but for rounding, which is nothing to the whole.
    whole = np.sqrt(sum(np.linalg.norm(exact[name]) ** 2 for name in names))
    floors = {name: 1e-3 * whole if name in names else 0.0 for name in arrays}
    worst = condition(arrays, exact, floors)
    zero = [name for name in names if np.linalg.norm(exact[name]) < 1e-6 * whole]
    missing = len(checkpoint.weights) - len(names)
    arrays |= {f"inputs.{name}": array for name, array in checkpoint.inputs.items()} | {"labels": labels}
    checkpoint.write(out / subject.name)
    size = write(out / f"{subject.name}.safetensors", arrays)
    return (
        f"{size / 1000:.0f} kB, f32 to f64 {worst:.1e}, loss {arrays['loss'][0]:.3f}, norm {whole:.2e}, "
        f"{len(names)} gradients, {len(zero)} of them zero, {missing} tensors without"
    )


def condition(arrays: dict[str, np.ndarray], exact: dict[str, np.ndarray], floors: dict[str, float]) -> float:
    """The worst distance from float32 to float64, relative to the norm or to a floor below it."""
    if arrays.keys() != exact.keys():
        raise Failed(f"float32 and float64 have not the same tensors: {sorted(arrays.keys() ^ exact.keys())}")
    errors = {}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise Failed(f"{name} is not finite")
        scale = max(np.linalg.norm(exact[name]), floors[name], np.finfo(np.float64).tiny)
        errors[name] = float(np.linalg.norm(array.astype(np.float64) - exact[name]) / scale)
    name = max(errors, key=errors.get)
    if errors[name] > CONDITION:
        raise Failed(f"{name}: float32 and float64 differ by {errors[name]:.1e}, at most {CONDITION:.0e} is allowed")
    return errors[name]


def write(path: Path, arrays: dict[str, np.ndarray]) -> int:
    """Writes a recording, floats as f32. Returns its size."""
    arrays = {
        name: np.ascontiguousarray(array, np.float32 if array.dtype == np.float64 else array.dtype)
        for name, array in arrays.items()
    }
    # One metadata key only: the writer orders several at random.
    content = save(arrays, metadata={"producer": f"transformers {transformers.__version__}"})
    if len(content) > LIMIT:
        raise Failed(f"{path.name} has {len(content)} bytes, at most {LIMIT} are allowed")
    path.write_bytes(content)
    return len(content)


def batches(subject: Subject, checkpoint: Checkpoint, accumulation: int) -> dict[str, np.ndarray]:
    """Inputs and labels of every step: `[steps, accumulation, batch, ..]`."""
    shape = (STEPS, accumulation, BATCH)
    lengths = 3 + random(f"{subject.name}/lengths", shape, WIDTH - 2)[..., None]
    text = np.arange(WIDTH) < lengths
    ids = 5 + random(f"{subject.name}/input_ids", text.shape, checkpoint.config["vocab_size"] - 5)
    arrays = {"input_ids": np.where(text, ids, 0), "attention_mask": text.astype(np.int64)}
    if checkpoint.config.get("type_vocab_size", 0) > 1:
        arrays["token_type_ids"] = np.where(text, 2 * np.arange(WIDTH) // lengths, 0)
    rows = {name: array.reshape(-1, WIDTH) for name, array in arrays.items()}
    labels = labels_for(f"{subject.name}/labels", checkpoint, rows)
    return arrays | {"labels": labels.reshape(*shape, *labels.shape[1:])}


class Rows(torch.utils.data.Dataset):
    """The rows of all batches, in their order."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = {name: torch.from_numpy(array.reshape(-1, *array.shape[3:])) for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self.arrays["labels"])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.arrays.items()}


def by_trainer(checkpoint: Checkpoint, arrays: dict[str, np.ndarray], arguments: dict) -> dict[str, np.ndarray]:
    """What HF's Trainer logs, and its final weights."""
    model = checkpoint.load(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model,
            transformers.TrainingArguments(
                output_dir=folder,
                use_cpu=True,
                train_sampling_strategy="sequential",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                **arguments,
            ),
            train_dataset=Rows(arrays),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    names = {"losses": "loss", "gradient_norms": "grad_norm", "learning_rates": "learning_rate"}
    curves = {name: np.array([entry[key] for entry in log]) for name, key in names.items()}
    return curves | {f"final.{name}": array for name, array in saved(model).items()}


def loss_by_hand(model: torch.nn.Module, inputs: dict, labels: torch.Tensor, items: int, smoothing: float):
    """Cross entropy over the labels of a micro-batch, divided by the number of labels of the whole step."""
    logits = forward(model, inputs)["logits"]
    if labels.dim() == 2:
        # What follows a token is its label.
        logits, labels = logits[:, :-1], labels[:, 1:]
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    # PyTorch's smoothing is HF's: the other part is the mean over all classes, the right one among them.
    entropy = torch.nn.functional.cross_entropy
    return entropy(logits, labels, ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum") / items


def by_hand(checkpoint: Checkpoint, arrays: dict[str, np.ndarray], arguments: dict, dtype: torch.dtype) -> dict:
    """The same steps, written out."""
    model = checkpoint.load(dtype)
    decayed = [p for n, p in model.named_parameters() if not n.endswith("bias") and "norm" not in n.lower()]
    others = [p for n, p in model.named_parameters() if n.endswith("bias") or "norm" in n.lower()]
    groups = [dict(params=decayed, weight_decay=arguments["weight_decay"]), dict(params=others, weight_decay=0.0)]
    betas = (arguments["adam_beta1"], arguments["adam_beta2"])
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=arguments["adam_epsilon"])
    curves = {"losses": [], "gradient_norms": [], "learning_rates": []}
    for step in range(STEPS):
        # The first step of a warmup changes nothing, and the last step of all still does.
        rising, falling = step / WARMUP, (STEPS - step) / (STEPS - WARMUP)
        rate = arguments["learning_rate"] * min(rising, falling)
        labels = torch.from_numpy(arrays["labels"][step])
        items = int(((labels[..., 1:] if labels.dim() == 3 else labels) != IGNORED).sum())
        optimizer.zero_grad()
        total = 0.0
        for part, part_labels in enumerate(labels):
            inputs = {name: array[step, part] for name, array in arrays.items() if name != "labels"}
            loss = loss_by_hand(model, inputs, part_labels, items, arguments["label_smoothing_factor"])
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), arguments["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        for name, value in zip(curves, (total, norm.item(), rate)):
            curves[name].append(value)
    curves = {name: np.array(values) for name, values in curves.items()}
    return curves | {f"final.{name}": array for name, array in saved(model).items()}


def record_losses(subject: Subject, models: Path, out: Path) -> str:
    """Writes ten steps of one subject. Returns what to print."""
    arguments = ARGUMENTS | subject.arguments
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = Checkpoint(subject, models, Path(temporary))
        arrays = batches(subject, checkpoint, arguments["gradient_accumulation_steps"])
        start = {f"final.{name}": array for name, array in saved(checkpoint.load(torch.float32)).items()}
        steps = by_trainer(checkpoint, arrays, arguments)
        hand = by_hand(checkpoint, arrays, arguments, torch.float32)
        with exact_softmax():
            exact = by_hand(checkpoint, arrays, arguments, torch.float64)
    for name in ("losses", "gradient_norms", "learning_rates"):
        if distance(hand[name], steps[name]) > SAME:
            raise Failed(f"{name} of the Trainer are {steps[name]}, by hand {hand[name]}")
    # Adam moves a weight without a gradient as far as any other, in a direction that rounding chooses.
    moved = {name: np.linalg.norm(exact[name] - array) for name, array in start.items()}
    unsteady = [name for name in start if np.linalg.norm(steps[name] - exact[name]) > 1e-3 * moved[name]]
    for name in unsteady:
        del steps[name], exact[name]
    worst = condition(steps, exact, dict.fromkeys(steps, 0.0))
    steps |= {f"inputs.{name}" if name != "labels" else name: array for name, array in arrays.items()}
    checkpoint.write(out / subject.name)
    (out / subject.name / "training_args.json").write_text(json.dumps(arguments, indent=2, sort_keys=True) + "\n")
    size = write(out / f"{subject.name}.safetensors", steps)
    losses = steps["losses"]
    return (
        f"{size / 1000:.0f} kB, f32 to f64 {worst:.1e}, losses {losses[0]:.3f} to {losses[-1]:.3f}, "
        f"norms {steps['gradient_norms'].min():.2f} to {steps['gradient_norms'].max():.2f}, "
        f"left out {[name.removeprefix('final.') for name in unsteady]}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="record gradients and steps of training with Python's transformers")
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data/train")
    parser.add_argument("--models", type=Path, required=True, help="the folder models")
    parser.add_argument("--only", help="only the recording of this name")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    args = parser.parse_args()
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    failed = False
    for section in args.sections or SECTIONS:
        subjects, record = (GRADIENTS, record_gradients) if section == "gradients" else (LOSSES, record_losses)
        for subject in subjects:
            if args.only in (None, subject.name):
                try:
                    print(f"{section}/{subject.name}: {record(subject, args.models, args.out / section)}", flush=True)
                except Exception as failure:
                    failed = True
                    message = " ".join(f"{type(failure).__name__}: {failure}".split())
                    print(f"{section}/{subject.name}: FAILED: {message}", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
