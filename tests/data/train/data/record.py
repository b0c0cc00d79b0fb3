"""Records goldens.json: what Python makes of small data sets, with the tokenizers of tests/data/tokenizers.

    python record.py        with transformers 5.23.0

The functions are those of HF's example scripts (run_ner.py, run_qa.py, run_clm.py, run_mlm.py), which are no part of the
package; the marks of whole words and the masks of assistants are the package's own.
"""

import json
import os
from itertools import chain
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

HERE = Path(__file__).parent
TOKENIZERS = HERE / "../../tokenizers"

WORDS = [
    (["Wolfgang", "lives", "in", "Berlin", "."], ["B-PER", "O", "O", "B-LOC", "O"]),
    (["The", "European", "Commission", "rejected", "it", ",", "unanimously"], ["O", "B-ORG", "I-ORG", "O", "O", "O", "O"]),
    (["Montréal", "2024", "naïve", "😀"], ["B-LOC", "O", "O", "O"]),
    (["\u200b", "x"], ["O", "O"]),
]
CONTEXT = (
    "The tower is 324 metres tall, about the same height as an 81-storey building, and the tallest structure in Paris. "
    "Its base is square, measuring 125 metres on each side. Gustave Eiffel's company built it from 1887 to 1889, and "
    "café owners nearby called it “la dame de fer”."
)
QUESTIONS = [
    ("  How tall is the tower?", "324 metres"),
    ("Who built it?", "Gustave Eiffel's company"),
    ("What did café owners call it?", "la dame de fer"),
    ("What is its colour?", None),
    ("Where is it?", "Paris"),
]
LINES = [
    "Once upon a time there was a small tower.\n",
    "\n",
    "It was tall, and it knew it.\n",
    "Unbelievable things happened: naïve foxes climbed it 2024 times!\n",
    "The end",
]
CHAT = [
    {"role": "system", "content": "You are a pirate."},
    {"role": "user", "content": "Hello, how are you?"},
    {"role": "assistant", "content": "I'm fine, matey. Ça va?"},
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|> {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|end|>"
    "{% endgeneration %}\n{% else %}{{ m.content }}<|end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def tokenizer(name):
    return AutoTokenizer.from_pretrained(TOKENIZERS / name)


def token_classification(name, label_all_tokens, max_length):
    names = sorted({tag for _, tags in WORDS for tag in tags})
    inside = [names.index(n.replace("B-", "I-")) if n.startswith("B-") and n.replace("B-", "I-") in names else i for i, n in enumerate(names)]
    encoded = tokenizer(name)([words for words, _ in WORDS], truncation=True, is_split_into_words=True, max_length=max_length)
    labels = []
    for i, (_, tags) in enumerate(WORDS):
        previous, row = None, []
        for word in encoded.word_ids(i):
            if word is None:
                row.append(-100)
            elif word != previous:
                row.append(names.index(tags[word]))
            else:
                row.append(inside[names.index(tags[word])] if label_all_tokens else -100)
            previous = word
        labels.append(row)
    return {
        "tokenizer": name, "label_all_tokens": label_all_tokens, "max_length": max_length,
        "rows": [{"tokens": words, "ner_tags": tags} for words, tags in WORDS],
        "names": names, "input_ids": encoded["input_ids"], "labels": labels,
    }


def question_answering(name, max_seq_length, doc_stride):
    tok = tokenizer(name)
    rows = []
    for i, (question, answer) in enumerate(QUESTIONS):
        answers = {"text": [], "answer_start": []}
        if answer is not None:
            answers = {"text": [answer], "answer_start": [CONTEXT.index(answer)]}
        rows.append({"id": str(i), "question": question, "context": CONTEXT, "answers": answers})
    encoded = tok(
        [row["question"].lstrip() for row in rows], [CONTEXT] * len(rows), truncation="only_second",
        max_length=max_seq_length, stride=doc_stride, return_overflowing_tokens=True, return_offsets_mapping=True,
    )
    features = []
    for i, offsets in enumerate(encoded["offset_mapping"]):
        ids, sequences = encoded["input_ids"][i], encoded.sequence_ids(i)
        row = rows[encoded["overflow_to_sample_mapping"][i]]
        cls = ids.index(tok.cls_token_id)
        start = end = cls
        if row["answers"]["text"]:
            first_char = row["answers"]["answer_start"][0]
            last_char = first_char + len(row["answers"]["text"][0])
            first, last = sequences.index(1), len(ids) - 1 - sequences[::-1].index(1)
            if offsets[first][0] <= first_char and offsets[last][1] >= last_char:
                bound, start, end = last, first, last
                # The script looks behind the text, too, where places are (0, 0).
                while start <= bound and offsets[start][0] <= first_char:
                    start += 1
                while offsets[end][1] >= last_char:
                    end -= 1
                start, end = start - 1, end + 1
        places = [list(place) if sequence == 1 else None for place, sequence in zip(offsets, sequences)]
        features.append({"id": row["id"], "input_ids": ids, "start": start, "end": end, "offset_mapping": places})
    return {"tokenizer": name, "max_seq_length": max_seq_length, "doc_stride": doc_stride, "rows": rows, "features": features}


def group_texts(examples, block_size):
    joined = {key: list(chain(*examples[key])) for key in examples}
    total = len(joined["input_ids"]) // block_size * block_size
    return {key: [values[i : i + block_size] for i in range(0, total, block_size)] for key, values in joined.items()}


def causal(name, block_size):
    encoded = tokenizer(name)(LINES)
    blocks = group_texts({"input_ids": encoded["input_ids"]}, block_size)
    return {"tokenizer": name, "block_size": block_size, "lines": LINES, "blocks": blocks["input_ids"]}


def masked(name, block_size):
    encoded = tokenizer(name)(LINES, return_special_tokens_mask=True)
    blocks = group_texts({key: encoded[key] for key in ("input_ids", "special_tokens_mask")}, block_size)
    return {
        "tokenizer": name, "block_size": block_size, "lines": LINES, "blocks": blocks["input_ids"],
        "special_tokens_mask": blocks["special_tokens_mask"],
    }


def whole_words(name, max_length):
    lines = [line for line in LINES if line.strip()]
    encoded = tokenizer(name)(
        lines, truncation=True, max_length=max_length, return_special_tokens_mask=True, return_offsets_mapping=True
    )
    starts = []
    for offsets, special in zip(encoded["offset_mapping"], encoded["special_tokens_mask"]):
        _, keep = DataCollatorForLanguageModeling._calc_word_ids_and_prob_mask(np.array([offsets]), np.array([special]))
        starts.append([int(not kept) for kept in keep[0]])
    return {"tokenizer": name, "max_length": max_length, "lines": LINES, "input_ids": encoded["input_ids"], "starts": starts}


def chat(name):
    encoded = tokenizer(name).apply_chat_template(
        CHAT, chat_template=TEMPLATE, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return {
        "tokenizer": name, "template": TEMPLATE, "messages": CHAT,
        "input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"],
    }


goldens = {
    "token_classification": [
        token_classification("bert-cased", False, 512),
        token_classification("bert-cased", True, 9),
        token_classification("roberta-prefix", True, 512),
        token_classification("xlm-roberta-json", False, 512),
    ],
    "question_answering": [
        question_answering("bert-uncased", 80, 24),
        question_answering("roberta-json", 96, 32),
    ],
    "causal": [causal("gpt2-json", 16), causal("llama-json", 12)],
    "masked": [masked("bert-uncased", 16), masked("roberta-json", 10)],
    "whole_words": [whole_words("bert-uncased", 512), whole_words("roberta-json", 24)],
    "chat": [chat("gpt2-json"), chat("llama-json")],
}
text = "{\n"
for i, (section, cases) in enumerate(goldens.items()):
    lines = [json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases]
    text += f"{json.dumps(section)}: [\n" + ",\n".join(lines) + "\n]" + (",\n" if i + 1 < len(goldens) else "\n")
(HERE / "goldens.json").write_text(text + "}\n")
