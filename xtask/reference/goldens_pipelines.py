"""tests/data/pipelines: tiny models with synthetic weights, and what Python's pipelines answer.

`golden.json` is a list of {"task", "arguments", "inputs", "output"}, or "error" in place of "output". The arguments are
those of the pipeline's call. Every answer is checked to hold in float64, and to keep its labels, order and places with
weights that are a little off: nothing recorded hangs on rounding.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import pipeline

import synth
from goldens_tokenizers import write_json

# Scores in float32 and in float64 agree to this.
TOLERANCE = 1e-5
# Relative error of the weights that no label, order or place may notice.
SHAKE = 3e-5

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
    "vocab_size": 799,
}
# Positions begin after the padding id.
ROBERTA = BERT | {"vocab_size": 761, "max_position_embeddings": 98, "type_vocab_size": 1, "pad_token_id": 1}
ROBERTA |= {"bos_token_id": 0, "eos_token_id": 2}
DISTILBERT = {
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
    "max_position_embeddings": 96,
    "vocab_size": 799,
}
UNCASED = ("bert-uncased-json", {"model_max_length": 96})
BYTE_LEVEL = ("roberta-hub-json", {"model_max_length": 96})


def labels(*names: str) -> dict:
    """The config's two label tables."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


@dataclass(frozen=True)
class Golden:
    """One folder: a model, a tokenizer, and what is asked of the pipeline."""

    name: str
    task: str
    model_class: str
    config: dict
    # Folder under tests/data/tokenizers, and changes to its tokenizer_config.json.
    tokenizer: tuple[str, dict]
    # Arguments and inputs of each call.
    calls: list[tuple[dict, object]]


LIGHT = "The old lighthouse keeper climbs the stairs."
RIVER = "The river is 777 kilometres long, and it flows through Paris into the sea."
ROSSI = "Maria Rossi moved from Rome to New York in 2011, and her brother Peter stayed in Italy."
ACCENTS = "L'\u00e9l\u00e8ve Jos\u00e9 M\u00fcller habite \u00e0 Besan\u00e7on \U0001f600 \u5317\u4eac  !"
STORY = (
    "The government announced a new law about energy. Yesterday the president of the United States met the chancellor "
    "of Germany in Washington. John works for a small company in Berlin that makes instruments for hospitals and "
    "schools. We took the early train from London to Paris and had coffee near the station while it was raining."
)


def fill_mask(mask: str, word: str, other: str, unknown: str) -> list[tuple[dict, object]]:
    one, two = f"The capital of France is {mask}.", f"{mask} is the {mask} of France."
    return [
        ({}, one),
        ({}, two),
        ({"top_k": 2}, f"She was reading a {mask} in the kitchen."),
        ({"top_k": 1}, two),
        ({"targets": [word, other]}, one),
        ({"targets": [other, word, word], "top_k": 1}, two),
        # Not in the vocabulary: its first token counts.
        ({"targets": unknown}, one),
        ({"targets": [unknown, word, other], "top_k": 10}, one),
        ({"targets": [""]}, one),
        ({}, [one, f"We took the {mask} train."]),
        ({"top_k": 3}, [one, two]),
        ({}, [one]),
        ({}, f"  {mask}  and caf\u00e9 \u00fcber,{mask}!"),
        ({"tokenizer_kwargs": {"truncation": True, "max_length": 12}}, f"{one} And then the text goes on."),
        ({}, "Nothing is hidden here."),
    ]


CLASSIFY = [
    ({}, "This movie is wonderful, the actors are great."),
    ({}, "This film is terrible: the story is boring."),
    ({}, [LIGHT, RIVER, ROSSI, "", ACCENTS]),
    ({"top_k": None}, RIVER),
    ({"top_k": None}, [LIGHT, ROSSI]),
    ({"top_k": 2}, LIGHT),
    ({"top_k": 1}, LIGHT),
    ({"top_k": 99}, LIGHT),
    ({"function_to_apply": "sigmoid"}, LIGHT),
    ({"function_to_apply": "softmax", "top_k": None}, LIGHT),
    ({"function_to_apply": "none", "top_k": None}, LIGHT),
    ({}, {"text": LIGHT, "text_pair": RIVER}),
    ({}, [{"text": LIGHT, "text_pair": RIVER}, {"text": RIVER, "text_pair": LIGHT}]),
    ({"top_k": None}, {"text": LIGHT, "text_pair": ROSSI}),
    ({}, [[[LIGHT, RIVER]]]),
    ({"truncation": True, "max_length": 12}, STORY),
]


def token_classification(last: str) -> list[tuple[dict, object]]:
    return [
        *(({"aggregation_strategy": strategy}, text) for text in (ROSSI, ACCENTS) for strategy in STRATEGIES),
        ({}, LIGHT),
        ({}, ""),
        ({}, [LIGHT, RIVER]),
        ({"aggregation_strategy": "first"}, [RIVER, LIGHT]),
        ({"ignore_labels": []}, RIVER),
        ({"ignore_labels": ["O", last]}, ROSSI),
        ({"ignore_labels": [last], "aggregation_strategy": "simple"}, ROSSI),
        # Cut at model_max_length without a word.
        ({"aggregation_strategy": "simple"}, STORY),
        *(({"aggregation_strategy": strategy, "stride": 6}, STORY) for strategy in STRATEGIES[1:]),
        ({"aggregation_strategy": "simple", "stride": 0}, STORY),
        ({"aggregation_strategy": "simple", "stride": 6}, LIGHT),
        ({"aggregation_strategy": "none", "stride": 6}, STORY),
        ({"aggregation_strategy": "simple", "stride": 99}, STORY),
        ({"is_split_into_words": True}, RIVER.split(" ")),
        (
            {"is_split_into_words": True, "delimiter": "", "aggregation_strategy": "average"},
            ["New", "York", "'s", "sea"],
        ),
    ]


STRATEGIES = ("none", "simple", "first", "average", "max")

ZERO_SHOT = [
    ({"candidate_labels": ["travel", "cooking", "dancing"]}, "One day I will see the world."),
    ({"candidate_labels": "food, music , a long journey"}, RIVER),
    ({"candidate_labels": ["travel", "cooking", "dancing"], "multi_label": True}, RIVER),
    ({"candidate_labels": ["paris"]}, RIVER),
    ({"candidate_labels": ["bad", "good"], "hypothesis_template": "The service was {}, and so was the food."}, LIGHT),
    ({"candidate_labels": ["history", "energy", "football", "bank"]}, [LIGHT, RIVER, ROSSI]),
    ({"candidate_labels": ["history", "energy"], "multi_label": True}, [LIGHT, RIVER]),
    ({"candidate_labels": ["history", "energy"]}, [LIGHT]),
    # Longer than the model: the sequence is cut, the hypothesis is not.
    ({"candidate_labels": ["law", "weather", "coffee"]}, STORY),
    ({"candidate_labels": ["law"], "hypothesis_template": "no place for a label"}, LIGHT),
    ({"candidate_labels": []}, LIGHT),
]

CONTEXT = "Maria Rossi moved from Rome to New York in 2011, and her brother Peter stayed in Italy with two cats."
PIANO = "My name is Sarah and I live in London with two cats, one dog and a very old piano."
TBILISI = "საქართველოს დედაქალაქი არის თბილისი. Երևանը Հայաստանի մայրաքաղաքն է."
WHO = "Who stayed in Italy?"


def ask(context: str, *questions: str) -> object:
    samples = [{"question": question, "context": context} for question in questions]
    return samples if len(samples) > 1 else samples[0]


QUESTIONS = [
    ({}, ask(CONTEXT, WHO)),
    ({}, ask(RIVER, "How long is the river?")),
    ({}, ask(ACCENTS, "O\u00f9 habite Jos\u00e9 ?")),
    ({"top_k": 3}, ask(CONTEXT, WHO)),
    ({"top_k": 5}, ask(RIVER, "What flows through Paris?")),
    ({"top_k": 4, "align_to_words": False}, ask(CONTEXT, WHO)),
    ({"max_answer_len": 2, "top_k": 3}, ask(CONTEXT, WHO)),
    ({"handle_impossible_answer": True}, ask(CONTEXT, WHO)),
    ({"handle_impossible_answer": True, "top_k": 3}, ask(RIVER, WHO)),
    # For BERT no answer is among the answers, and the best one.
    ({"handle_impossible_answer": True, "top_k": 3}, ask(PIANO, "What is it?")),
    ({"handle_impossible_answer": True, "max_answer_len": 1}, ask(TBILISI, WHO)),
    ({}, ask(STORY, "Who met the chancellor?")),
    ({"max_seq_len": 40, "doc_stride": 12}, ask(STORY, "Who met the chancellor?")),
    ({"max_seq_len": 40, "doc_stride": 12, "top_k": 4}, ask(STORY, "Where does John work?")),
    ({"max_seq_len": 32, "doc_stride": 4, "top_k": 2, "handle_impossible_answer": True}, ask(STORY, WHO)),
    ({}, ask(CONTEXT, WHO, "Who moved to New York?", "When?")),
    ({"top_k": 2}, ask(CONTEXT, WHO, "Who moved to New York?")),
    ({}, ask("", WHO)),
    ({}, ask(CONTEXT, "")),
    ({"top_k": 0}, ask(CONTEXT, WHO)),
    ({"max_seq_len": 20, "doc_stride": 30}, ask(CONTEXT, WHO)),
]

PEOPLE = labels("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
THINGS = labels("MISC", "B-PER", "I-PER", "O", "I-ORG")
# Standard deviations by a part of the tensor's name, before the usual ones. With the usual ones what all texts share,
# types and positions, drowns the words, and every text gets the same answer.
LIVELY = {
    "word_embeddings.weight": 1.2,
    "token_type_embeddings.weight": 0.1,
    "position_embeddings.weight": 0.3,
    "query.weight": 0.35,
    "key.weight": 0.35,
    "q_lin.weight": 0.35,
    "k_lin.weight": 0.35,
    "pooler.dense.weight": 0.5,
    "pre_classifier.weight": 0.3,
    "classifier.weight": 1.0,
    "out_proj.weight": 1.0,
    "qa_outputs.weight": 1.0,
}

GOLDENS = [
    Golden(
        "feature-extraction",
        "feature-extraction",
        "BertModel",
        BERT,
        UNCASED,
        [
            ({}, LIGHT),
            ({}, ["Hello!", ""]),
            ({"truncation": True}, STORY),
            ({"tokenize_kwargs": {"truncation": True, "max_length": 5}}, LIGHT),
        ],
    ),
    Golden(
        "fill-mask-bert",
        "fill-mask",
        "BertForMaskedLM",
        BERT,
        UNCASED,
        fill_mask("[MASK]", "the", "with", "Lighthouse"),
    ),
    Golden(
        "fill-mask-roberta",
        "fill-mask",
        "RobertaForMaskedLM",
        ROBERTA,
        BYTE_LEVEL,
        fill_mask("<mask>", "\u0120the", "ing", " Lighthouse"),
    ),
    Golden(
        "text-classification",
        "text-classification",
        "BertForSequenceClassification",
        BERT | labels("anger", "joy", "fear", "surprise"),
        UNCASED,
        CLASSIFY,
    ),
    Golden(
        "text-classification-multi-label",
        "text-classification",
        "RobertaForSequenceClassification",
        ROBERTA | labels("toxic", "obscene", "threat") | {"problem_type": "multi_label_classification"},
        BYTE_LEVEL,
        CLASSIFY,
    ),
    Golden(
        "text-classification-regression",
        "text-classification",
        "DistilBertForSequenceClassification",
        DISTILBERT | labels("LABEL_0") | {"problem_type": "regression"},
        ("bert-uncased-json", {"tokenizer_class": "DistilBertTokenizer"}),
        CLASSIFY,
    ),
    # One label without a problem type: a sigmoid.
    Golden(
        "text-classification-one-label",
        "text-classification",
        "BertForSequenceClassification",
        BERT | labels("relevant"),
        UNCASED,
        CLASSIFY,
    ),
    Golden(
        "token-classification-bert",
        "token-classification",
        "BertForTokenClassification",
        BERT | PEOPLE,
        ("bert-uncased-json", {"model_max_length": 32}),
        token_classification("I-LOC"),
    ),
    Golden(
        "token-classification-roberta",
        "token-classification",
        "RobertaForTokenClassification",
        ROBERTA | THINGS,
        ("roberta-hub-json", {"model_max_length": 32, "add_prefix_space": True}),
        token_classification("MISC"),
    ),
    Golden(
        "zero-shot-classification-bert",
        "zero-shot-classification",
        "BertForSequenceClassification",
        BERT | labels("contradiction", "neutral", "entailment"),
        ("bert-uncased-json", {"model_max_length": 48}),
        ZERO_SHOT,
    ),
    Golden(
        "zero-shot-classification-roberta",
        "zero-shot-classification",
        "RobertaForSequenceClassification",
        ROBERTA | labels("ENTAILMENT", "NEUTRAL", "CONTRADICTION"),
        ("roberta-hub-json", {"model_max_length": 48}),
        ZERO_SHOT,
    ),
    # Recorded by version 4, which is the last with this pipeline.
    Golden(
        "question-answering-bert",
        "question-answering",
        "BertForQuestionAnswering",
        BERT,
        ("bert-uncased-json", {"model_max_length": 64}),
        QUESTIONS,
    ),
    Golden(
        "question-answering-roberta",
        "question-answering",
        "RobertaForQuestionAnswering",
        ROBERTA,
        ("roberta-hub-json", {"model_max_length": 64}),
        QUESTIONS,
    ),
]


def write_model(golden: Golden, folder: Path) -> None:
    """config.json as HF saves it, and weights.json for the tensors that HF saves."""
    # Here, because version 4 need not read the tables of all reference cases.
    from case import Case
    from reference import describe

    model_class = getattr(transformers, golden.model_class)
    case = Case(golden.name, golden.model_class, golden.config, stds=LIVELY)
    with tempfile.TemporaryDirectory() as temporary:
        model_class(model_class.config_class(**golden.config)).save_pretrained(temporary)
        weights = describe(case, Path(temporary))
        config = json.loads((Path(temporary) / "config.json").read_text())
    write_json(folder / "config.json", config)
    lines = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in weights.items()]
    (folder / "weights.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_tokenizer(golden: Golden, folder: Path, tokenizers: Path) -> None:
    name, changes = golden.tokenizer
    source = tokenizers / name
    if not source.is_dir():
        raise SystemExit(f"{source} is not there: record the section tokenizers first")
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    config = json.loads((source / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", config | changes)


def plain(value):
    """Arrays, tensors and numpy numbers as JSON has them; float32 with as few digits as give it back."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic, torch.Tensor)):
        return plain(value.tolist())
    if isinstance(value, float) and float(np.float32(value)) == value:
        return float(str(np.float32(value)))
    return value


def compare(found, expected, tolerance: float | None, path: str) -> None:
    """Structure, labels and places are the same; numbers within the tolerance, or any where it is `None`."""
    same = type(found) is type(expected)
    if same and isinstance(found, dict):
        same = found.keys() == expected.keys()
        for key in expected if same else ():
            compare(found[key], expected[key], tolerance, f"{path}.{key}")
    elif same and isinstance(found, list):
        same = len(found) == len(expected)
        for place in range(len(expected) if same else 0):
            compare(found[place], expected[place], tolerance, f"{path}[{place}]")
    elif same and isinstance(found, float):
        same = tolerance is None or abs(found - expected) <= tolerance * max(1.0, abs(expected))
    elif same:
        same = found == expected
    if not same:
        raise SystemExit(f"{path} hangs on rounding: {found!r} and {expected!r}; change the text or the weights")


def call(pipe, task: str, arguments: dict, inputs) -> dict:
    record = {"task": task, "arguments": arguments, "inputs": inputs}
    # Pipelines change what they are given.
    arguments, inputs = json.loads(json.dumps([arguments, inputs]))
    try:
        if task == "question-answering":
            samples = inputs if isinstance(inputs, list) else [inputs]
            arguments["question"] = [sample["question"] for sample in samples]
            arguments["context"] = [sample["context"] for sample in samples]
            output = pipe(**arguments)
        else:
            output = pipe(inputs, batch_size=1, **arguments)
    except Exception as error:
        return record | {"error": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return record | {"output": plain(output)}


def ask_all(golden: Golden, folder: Path) -> list[dict]:
    """The calls of a golden, in float32, and checked against float64 and shaken weights."""

    def records(dtype: torch.dtype, shake: float = 0.0) -> list[dict]:
        model_class = getattr(transformers, golden.model_class)
        with tempfile.TemporaryDirectory() as temporary:
            for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
                shutil.copyfile(folder / file, Path(temporary) / file)
            synth.write_checkpoint(json.loads((folder / "weights.json").read_text()), Path(temporary))
            model, info = model_class.from_pretrained(
                temporary, attn_implementation="eager", dtype=dtype, output_loading_info=True
            )
            problems = {key: value for key, value in info.items() if value}
            if problems:
                raise SystemExit(f"{golden.name}: from_pretrained: {problems}")
            generator = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for parameter in model.parameters():
                    noise = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
                    parameter.mul_(1.0 + shake * (2.0 * noise - 1.0))
            pipe = pipeline(golden.task, model=model, tokenizer=temporary, device="cpu")
        return [call(pipe, golden.task, *item) for item in golden.calls]

    answers = records(torch.float32)
    for others, tolerance in ((records(torch.float64), TOLERANCE), (records(torch.float32, SHAKE), None)):
        for place, (other, answer) in enumerate(zip(others, answers)):
            compare(other, answer, tolerance, f"{golden.name}[{place}]")
    return answers


def write_goldens(root: Path, goldens: list[Golden]) -> None:
    for golden in goldens:
        folder = root / golden.name
        if not folder.is_dir():
            raise SystemExit(f"{folder} is not there: record with the other version first")
        answers = ask_all(golden, folder)
        lines = ",\n".join(json.dumps(answer, separators=(",", ":")) for answer in answers)
        (folder / "golden.json").write_text(f"[\n{lines}\n]\n")
        errors = sum("error" in answer for answer in answers)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"pipelines/{golden.name}: {len(answers)} calls, {errors} errors, {size / 1024:.0f} KiB", flush=True)


def record(out: Path) -> None:
    """Writes the folder `pipelines` in `out`, without the goldens of version 4."""
    root = out / "pipelines"
    for golden in GOLDENS:
        folder = root / golden.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_model(golden, folder)
        write_tokenizer(golden, folder, out / "tokenizers")
    write_goldens(root, [golden for golden in GOLDENS if golden.task != "question-answering"])


def older(out: Path) -> None:
    """Adds the goldens of version 4."""
    write_goldens(out / "pipelines", [golden for golden in GOLDENS if golden.task == "question-answering"])
