"""Records tests/data/train/metrics: schedules, metrics and event files as Python computes them.

    python goldens_train_metrics.py --out DIR        DIR is the folder tests/data

Needs what requirements.txt has, with the scikit-learn and scipy that come with sentence-transformers (1.9.1 and 1.17.1
recorded this), and seqeval==1.2.2 and tensorboard==2.21.0 without their dependencies. All inputs are here; the same
versions write the same bytes.
"""

import argparse
import collections
import json
import math
import re
import string
import sys
import tempfile
import warnings
from pathlib import Path


warnings.filterwarnings("ignore")


def numbers(count: int, seed: int) -> list[float]:
    """Numbers from 0 to 1 that depend on nothing but the seed."""
    state, result = seed, []
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        result.append((state >> 33) / 2**31)
    return result


def integers(count: int, below: int, seed: int) -> list[int]:
    return [int(number * below) for number in numbers(count, seed)]


# --- schedules


def rates(kind: str, kwargs: dict, lr: float, warmup: int, total: int, metrics: list[float], steps: int) -> list[float]:
    """The learning rate of every update."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=kwargs or None
    )
    result = [float(optimizer.param_groups[0]["lr"])]
    for step in range(steps):
        optimizer.step()
        scheduler.step(metrics[step]) if metrics else scheduler.step()
        result.append(float(optimizer.param_groups[0]["lr"]))
    return result


def schedules() -> list[dict]:
    rows = [
        ("linear", {}, 5e-5, 0, 20),
        ("linear", {}, 5e-5, 7, 20),
        ("linear", {}, 1e-3, 30, 20),
        ("cosine", {}, 5e-5, 3, 25),
        ("cosine", {"num_cycles": 1.25}, 2e-4, 0, 17),
        ("cosine_with_restarts", {}, 5e-5, 4, 21),
        ("cosine_with_restarts", {"num_cycles": 3}, 5e-5, 2, 32),
        ("polynomial", {}, 5e-5, 3, 20),
        ("polynomial", {"lr_end": 1e-5, "power": 2.5}, 1e-3, 5, 23),
        ("constant", {}, 5e-5, 6, 20),
        ("constant_with_warmup", {}, 5e-5, 6, 20),
        ("inverse_sqrt", {}, 5e-5, 6, 20),
        ("inverse_sqrt", {}, 5e-5, 0, 20),
        ("inverse_sqrt", {"timescale": 4}, 1e-2, 6, 20),
        ("cosine_with_min_lr", {"min_lr": 1e-5}, 1e-4, 4, 20),
        ("cosine_with_min_lr", {"min_lr_rate": 0.25, "num_cycles": 0.75}, 1e-4, 0, 20),
        ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}, 1e-4, 5, 20),
        ("cosine_warmup_with_min_lr", {"min_lr": 2e-5, "warmup_lr_rate": 0.05}, 1e-4, 5, 20),
        ("warmup_stable_decay", {"num_decay_steps": 8}, 1e-3, 5, 24),
        ("warmup_stable_decay", {"num_decay_steps": 6, "num_stable_steps": 4, "min_lr_ratio": 0.1}, 1e-3, 5, 24),
    ]
    for curve, other in (("linear", "1-sqrt"), ("cosine", "linear"), ("1-sqrt", "cosine")):
        kwargs = {"num_decay_steps": 9, "warmup_type": curve, "decay_type": other, "min_lr_ratio": 0.05}
        rows.append(("warmup_stable_decay", kwargs, 3e-4, 6, 20))
    cases = [(*row, []) for row in rows]

    falling = [3.0 / (1 + step) + 0.4 * number for step, number in enumerate(numbers(40, 1))]
    flat = [1.0 + 1e-5 * number for number in numbers(40, 2)]
    wave = [2.0 + math.sin(step / 3) + 0.1 * number for step, number in enumerate(numbers(60, 3))]
    plateau = "reduce_lr_on_plateau"
    cases += [
        (plateau, {"patience": 2}, 1e-2, 0, 40, falling),
        (plateau, {"patience": 0, "factor": 0.5, "min_lr": 1e-3, "cooldown": 2}, 1e-2, 0, 40, flat),
        (plateau, {"patience": 1, "mode": "max", "threshold_mode": "abs", "threshold": 0.05}, 1e-2, 0, 60, wave),
        (plateau, {"patience": 1, "mode": "max", "threshold": 0.01, "eps": 1e-3}, 1e-2, 0, 60, wave),
        ("greedy", {}, 5e-3, 0, 40, falling),
        ("greedy", {"patience": 1, "factor": 0.5, "min_lr": 1e-5, "max_lr": 0.1}, 1e-3, 0, 40, [-v for v in range(40)]),
        ("greedy", {"patience": 1, "min_lr": 1e-4, "warmup": 2, "cooldown": 3, "reset_start": 2}, 1e-3, 0, 60, wave),
        ("greedy", {"patience": 0, "factor": 0.5, "min_lr": 2e-4, "reset_start": 3}, 1e-3, 0, 40, flat),
        ("greedy", {"patience": 0, "smooth": True, "window_size": 5, "min_lr": 1e-6, "mode": "max"}, 1e-3, 0, 60, wave),
        ("greedy", {"patience": 0, "threshold_mode": "rel", "threshold": 0.02, "min_lr": 0}, 1e-3, 0, 60, wave),
    ]
    result = []
    for kind, kwargs, lr, warmup, total, metrics in cases:
        metrics = [float(metric) for metric in metrics]
        steps = len(metrics) or total + 4
        result.append(
            {
                "lr_scheduler_type": kind,
                "kwargs": kwargs,
                "learning_rate": lr,
                "num_warmup_steps": warmup,
                "num_training_steps": total,
                "metrics": metrics,
                "rates": rates(kind, kwargs, lr, warmup, total, metrics, steps),
            }
        )
    return result


# --- classification


def classification() -> list[dict]:
    from sklearn import metrics

    rows = {
        "binary": (integers(40, 2, 4), integers(40, 2, 5)),
        "all the same": ([1] * 6, [1] * 6),
        "never positive": ([0, 0, 0, 0], [0, 1, 0, 1]),
        "no positive at all": ([0, 0, 0], [0, 0, 0]),
        "all wrong": ([1, 0, 1, 0], [0, 1, 0, 1]),
        "one": ([1], [0]),
        "five labels": (integers(60, 5, 6), integers(60, 5, 7)),
        "labels that are never predicted": ([0, 0, 2, 2, 7], [0, 1, 2, 3, 7]),
        "far apart": ([10, 4000000000, 10, 3], [10, 10, 4000000000, 3]),
        "constant prediction": ([1] * 8, integers(8, 3, 8)),
    }
    result = []
    for name, (predictions, references) in rows.items():
        case = {
            "name": name,
            "predictions": predictions,
            "references": references,
            "accuracy": metrics.accuracy_score(references, predictions),
            "matthews": metrics.matthews_corrcoef(references, predictions),
        }
        labels = set(predictions) | set(references)
        for average in ("binary", "macro", "micro", "weighted"):
            if average == "binary" and not labels <= {0, 1}:
                continue
            scores = metrics.precision_recall_fscore_support(references, predictions, average=average, zero_division=0)
            case[average] = [float(score) for score in scores[:3]]
        result.append(case)
    return result


# --- correlation


def correlation() -> list[dict]:
    from scipy import stats

    x, y = numbers(50, 9), numbers(50, 10)
    rows = {
        "noise": (x, y),
        "related": (x, [a + 0.2 * b for a, b in zip(x, y)]),
        "opposed": (x, [-3.0 * a for a in x]),
        "ties": ([float(v) for v in integers(50, 4, 11)], [float(v) for v in integers(50, 3, 12)]),
        "two": ([1.0, 2.0], [5.0, 3.0]),
        "constant": ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]),
        "large": ([1e200 * v for v in x], [1e-200 * v for v in y]),
        "far from zero": ([1e6 + v for v in x], [1e6 + a + b for a, b in zip(x, y)]),
    }
    result = []
    for name, (x, y) in rows.items():
        values = {"pearson": stats.pearsonr(x, y).statistic, "spearman": stats.spearmanr(x, y).statistic}
        values = {key: None if math.isnan(value) else float(value) for key, value in values.items()}
        result.append({"name": name, "x": x, "y": y} | values)
    return result


# --- entities


def report(references, predictions, strict: bool) -> dict:
    from seqeval.metrics import accuracy_score, classification_report
    from seqeval.scheme import IOB2

    options = {"mode": "strict", "scheme": IOB2} if strict else {}
    scores = classification_report(references, predictions, output_dict=True, zero_division=0, **options)

    def row(scores: dict) -> list[float]:
        return [float(scores[key]) for key in ("precision", "recall", "f1-score")] + [int(scores["support"])]

    averages = ("micro avg", "macro avg", "weighted avg")
    return {
        "entities": {name: row(scores[name]) for name in sorted(scores) if name not in averages},
        "overall": row(scores["micro avg"]),
        "accuracy": accuracy_score(references, predictions),
    }


def entities() -> list[dict]:
    names = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    chosen = integers(160, len(names), 13)
    references = [[names[i] for i in chosen[start : start + 8]] for start in range(0, 80, 8)]
    noise = integers(80, 4, 14)
    predictions = [
        [names[chosen[80 + 8 * row + i]] if noise[8 * row + i] == 0 else tag for i, tag in enumerate(tags)]
        for row, tags in enumerate(references)
    ]
    rows = {
        "as it should be": ([["B-PER", "I-PER", "O", "B-LOC"]], [["B-PER", "I-PER", "O", "B-LOC"]]),
        "of the package": (
            [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
            [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]],
        ),
        "begins inside": ([["I-PER", "I-PER", "O"], ["O", "I-LOC"]], [["B-PER", "I-PER", "O"], ["O", "I-LOC"]]),
        "other type inside": ([["B-PER", "I-LOC", "I-LOC"]], [["B-PER", "I-PER", "I-LOC"]]),
        "from sentence to sentence": ([["B-PER"], ["I-PER"]], [["B-PER"], ["I-PER"]]),
        "no type": ([["B", "I", "O", "B-"]], [["B", "O", "O", "B"]]),
        "dashes in types": ([["B-A-B", "I-A-B", "B--A", "I-A"]], [["B-A-B", "I-A-B", "B-A", "I-A"]]),
        "none predicted": ([["B-PER", "O"]], [["O", "O"]]),
        "none at all": ([["O", "O"], ["O"]], [["O", "O"], ["O"]]),
        "random": (references, predictions),
    }
    lenient = {
        "ends and singles": (
            [["S-PER", "B-LOC", "E-LOC", "E-ORG", "I-ORG", "S-PER", "S-PER"]],
            [["S-PER", "B-LOC", "I-LOC", "E-ORG", "E-ORG", "S-PER", "E-PER"]],
        ),
        "no tags": ([["PER", "X-LOC", ".", "B-A"], ["X", "O"]], [["B-ER", "X-LOC", "O", "B-A"], ["X", "I-X"]]),
    }
    result = []
    for name, (references, predictions) in (rows | lenient).items():
        case = {"name": name, "references": references, "predictions": predictions}
        case["lenient"] = report(references, predictions, False)
        case["strict"] = report(references, predictions, True) if name in rows else None
        result.append(case)
    return result


# --- answers


def normalize_answer(text: str) -> str:
    """As the official script of SQuAD, evaluate-v1.1.py."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(prediction: str, truth: str, second: bool) -> float:
    """The official scripts differ where nothing is left of an answer: in 2.0 two such answers agree."""
    prediction, truth = normalize_answer(prediction).split(), normalize_answer(truth).split()
    if second and not (prediction and truth):
        return float(prediction == truth)
    same = sum((collections.Counter(prediction) & collections.Counter(truth)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(prediction), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def answer_exact(prediction: str, truths: list[str]) -> float:
    return float(any(normalize_answer(prediction) == normalize_answer(truth) for truth in truths))


def answers() -> dict:
    texts = [
        "The Cat, a dog and an   Owl!",
        "theatre of the a-list",
        "An",
        "\u00c0 la carte \u2014 the \u201cquoted\u201d",
        "US$ 1,000.50 (approx.)",
        "tab\tnew\nline\x1cfile\u00a0space\u3000wide",
        "\u0391\u039d \u039f\u0394\u039f\u03a3 \u0130stanbul STRASSE \u00df",
        "the_a a_the a1 1a the",
        "\u4e2d\u6587 the\u4e2d a",
        "e\u0301 a\u0301 the",
        "",
    ]
    rows = [
        ("the Norman dynasty", ["Norman", "the Norman dynasty."]),
        ("in the 10th and 11th centuries", ["10th and 11th centuries", "10th and 11th"]),
        ("France", ["Denmark", "Iceland and Norway"]),
        ("a", ["the"]),
        ("", ["something"]),
        ("New York New York", ["New York", "York New Jersey"]),
        ("", []),
        ("made up", []),
        ("The", ["The", "a"]),
    ]
    cases, sums = [], collections.Counter()
    for prediction, truths in rows:
        case = {"prediction": prediction, "answers": truths}
        if truths:
            f1 = max(answer_f1(prediction, truth, False) for truth in truths)
            case["v1"] = [answer_exact(prediction, truths), f1]
        # What nothing is left of is no answer, in 2.0.
        left = [truth for truth in truths if normalize_answer(truth)] or [""]
        case["v2"] = [answer_exact(prediction, left), max(answer_f1(prediction, truth, True) for truth in left)]
        cases.append(case)

    def mean(cases: list[dict], key: str) -> list[float]:
        return [100.0 * sum(case[key][part] for case in cases) / len(cases) for part in (0, 1)]

    answered = [case for case in cases if case["answers"]]
    return {
        "normalized": [[text, normalize_answer(text)] for text in texts],
        "cases": cases,
        "v1": mean(answered, "v1"),
        "v2": mean(cases, "v2"),
        "v2_answered": mean(answered, "v2"),
        "v2_unanswered": mean([case for case in cases if not case["answers"]], "v2"),
    }


# --- event files


def events() -> bytes:
    """What TensorBoard's own writer makes of a text and some scalars; the clock stands still."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard import summary

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events"
        writer = RecordWriter(path.open("wb"))
        records = [Event(wall_time=1700000000.25, file_version="brain.Event:2")]
        records.append(Event(wall_time=1700000000.5, step=0, summary=summary.text("args", '{"seed": 42}\n\u00e9')))
        scalars = [(1, "train/loss", 2.5), (500, "eval/loss", math.nan), (2**40, "train/epoch", 1e-9)]
        for step, tag, value in scalars:
            records.append(Event(wall_time=1700000001.0 + step, step=step, summary=summary.scalar(tag, value)))
        for record in records:
            writer.write(record.SerializeToString())
        writer.close()
        return path.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description="record schedules, metrics and event files")
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data")
    folder = parser.parse_args().out / "train/metrics"
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "schedules": schedules(),
        "classification": classification(),
        "correlation": correlation(),
        "seqeval": entities(),
        "squad": answers(),
    }
    for name, value in content.items():
        (folder / f"{name}.json").write_text(json.dumps(value, separators=(",", ":")) + "\n")
    (folder / "events.tfevents").write_bytes(events())
    print(*(f"{path.name}: {path.stat().st_size} bytes" for path in sorted(folder.iterdir())), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
