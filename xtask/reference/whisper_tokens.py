"""The tokenizer of tests/data/whisper, and `tokens.json`: what Python makes of prompts and of outputs that were made up.

Tiny models write nothing that sounds overlap in, so outputs of overlapping parts are made from sentences with times: the
pieces of a sound hear what lies within them, with some errors.
"""

import json
import random
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

# Tokens of text; the special ones follow.
TEXT = 700
LANGUAGES = ["en", "zh", "de", "es", "ja", "fr"]
SPECIAL = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LANGUAGES)]
SPECIAL += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
TOKENS = {token: TEXT + number for number, token in enumerate(SPECIAL)}
# The token for 0.00 seconds; 1500 more follow, each 20 ms later.
TIMES = TEXT + len(SPECIAL)
LAST_TIME = 1500

SENTENCES = [
    " Good morning, and thank you all for coming.",
    " Today we will talk about the weather of the coming week, and about the roads over the mountains.",
    " On Monday the sun will shine from early morning until late in the evening.",
    " Am Mittwoch regnet es im ganzen Land, und in den Bergen fällt der erste Schnee.",
    " Whoever has to travel should take the train: it runs every twenty minutes, and it is warm.",
    " El jueves volverá el buen tiempo, con dieciséis grados por la tarde.",
    ' "Are there any questions?" (No?) - Then let us go on [with] the second part!',
    " ¿Qué tal? ¡Bien! Ça va… “très bien” — naïve café, 3.50 € or $4.",
    "今日は天気がいいですね。散歩に行きましょう、公園まで。",
    "明天会下雨，请带伞！好的？",
    " Nobody was hurt, but two boats were lost, and the old bridge has been closed.",
    " We expect it to be open again at the end of the month.",
    " The wind turns to the west, and by Tuesday noon the first clouds will reach the coast.",
    " Wer früher kommt, bekommt größere Stücke; wer später kommt, hört wenigstens noch die Geschichten.",
    " Les enfants jouent près de la rivière, où l'eau est déjà très froide à cette époque de l'année.",
    " Se oyó un ruido extraño detrás de la puerta, pero nadie quiso levantarse para mirar.",
    " Extraordinarily, seventeen thousand unremarkable postcards survived the underground flooding.",
]


def added(number: int, token: str, special: bool) -> dict:
    plain = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
    return dict(id=number, content=token, special=special) | plain


def tokenizer_files() -> dict[str, str]:
    """`tokenizer.json` without the tokens of time, and `tokenizer_config.json`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=TEXT, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator(SENTENCES, trainer)
    assert tokenizer.get_vocab_size() == TEXT, tokenizer.get_vocab_size()
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [added(number, token, True) for token, number in TOKENS.items()]
    named = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>")
    settings = dict(
        tokenizer_class="WhisperTokenizer",
        additional_special_tokens=SPECIAL,
        # As OpenAI's checkpoints have it. It has no effect, because BPE's spaces belong to the text.
        clean_up_tokenization_spaces=True,
        errors="replace",
        model_max_length=1024,
        processor_class="WhisperProcessor",
        **named,
    )
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False) + "\n",
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }


def write_tokenizer(files: dict[str, str], folder: Path) -> None:
    """Writes the files with the tokens of time into a model's folder."""
    content = json.loads(files["tokenizer.json"])
    times = [added(TIMES + step, f"<|{step * 0.02:.2f}|>", False) for step in range(LAST_TIME + 1)]
    content["added_tokens"] += times
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(files["tokenizer_config.json"])


def time(seconds: float) -> int:
    return TIMES + min(max(round(seconds / 0.02), 0), LAST_TIME)


class Made:
    """A sound that was never made: sentences, where they are, and when each of their tokens is said."""

    def __init__(self, tokenizer, draw: random.Random, sentences: int):
        self.draw, self.sentences, now = draw, [], draw.choice([0.0, 0.48])
        for _ in range(sentences):
            ids = tokenizer(draw.choice(SENTENCES), add_special_tokens=False).input_ids
            if draw.random() < 0.2:
                # No whole characters.
                ids += [draw.randrange(TEXT) for _ in range(draw.randrange(1, 9))]
            ends = []
            for _ in ids:
                now += draw.choice([0.06, 0.12, 0.2, 0.32])
                ends.append(now)
            self.sentences.append((ends[0] - 0.06, ids, ends))
            now += draw.choice([0.0, 0.0, 0.4, 2.0])
        self.length = now

    def heard(self, start: float, end: float, errors: float) -> tuple[list[int], list[float]]:
        """What is written of a part, and when each token is said, from its beginning."""
        tokens, times = [], []
        for first, ids, ends in self.sentences:
            inside = [(token, at) for token, at in zip(ids, ends) if start <= at < end]
            if not inside:
                continue
            tokens.append(time(max(first, start) - start))
            times.append(inside[0][1] - start)
            for token, at in inside:
                wrong = self.draw.random() < errors
                if wrong and self.draw.random() < 0.5:
                    continue
                tokens.append(self.draw.randrange(TEXT) if wrong else token)
                times.append(at - start)
            if ends[-1] < end or self.draw.random() < 0.5:
                # A sentence that is cut off may have an end, and may not.
                tokens.append(time(min(ends[-1], end) - start))
                times.append(inside[-1][1] - start)
        return tokens, [round(round(at / 0.02) * 0.02, 2) for at in times]


def made_up(tokenizer, number: int) -> tuple[list[dict], dict]:
    """Outputs of the parts of a sound, and how they are read."""
    draw = random.Random(number)
    sound = Made(tokenizer, draw, draw.randrange(1, 7))
    options = dict(return_timestamps=draw.choice([None, True, "word", "word"]), return_language=draw.random() < 0.4)
    errors = draw.choice([0.0, 0.0, 0.05, 0.2])
    outputs = []
    if number % 3 == 0:
        # One after another, as a long sound is heard: times begin anew in each part.
        tokens, times, start = [], [], 0.0
        while start < sound.length:
            more, said = sound.heard(start, min(start + 30.0, sound.length), errors)
            tokens += more
            times += [round(at + start, 2) for at in said]
            start += 30.0 if draw.random() < 0.6 else 21.34
        outputs.append(dict(tokens=tokens, token_timestamps=times, stride=None))
    else:
        # In pieces that overlap.
        length = draw.choice([8.0, 12.5, 30.0])
        left, right = draw.choice([(length / 6, length / 6), (1.0, 2.5), (0.0, 2.0), (2.0, 0.0), (0.0, 0.0)])
        start = 0.0
        while True:
            end = min(start + length, sound.length)
            last = start + length >= sound.length
            tokens, times = sound.heard(start, end, errors)
            stride = [end - start, 0.0 if start == 0 else left, 0.0 if last else right]
            outputs.append(dict(tokens=tokens, token_timestamps=times, stride=stride))
            if last:
                break
            start += length - left - right
    code = draw.choice(LANGUAGES)
    for output in outputs:
        if options["return_language"]:
            code = draw.choice(LANGUAGES) if draw.random() < 0.3 else code
            output["tokens"] = [TOKENS[f"<|{code}|>"], *output["tokens"]]
            output["token_timestamps"] = [0.0, *output["token_timestamps"]]
        if draw.random() < 0.2:
            output["tokens"] = [*output["tokens"], TOKENS["<|endoftext|>"]]
            output["token_timestamps"] = [*output["token_timestamps"], *output["token_timestamps"][-1:]] or [0.0]
        if options["return_timestamps"] != "word":
            output["token_timestamps"] = None
    return outputs, options


def read(tokenizer, outputs: list[dict], options: dict) -> dict:
    """What Python makes of outputs."""
    given = []
    for output in outputs:
        row = dict(tokens=torch.tensor([output["tokens"]], dtype=torch.long))
        if output["token_timestamps"] is not None:
            row["token_timestamps"] = [torch.tensor(output["token_timestamps"], dtype=torch.float32)]
        if output["stride"]:
            row["stride"] = tuple(output["stride"])
        given.append(row)
    text, optional = tokenizer._decode_asr(given, time_precision=0.02, **options)
    return dict(text=text) | optional


PROMPTS = ["", "Zürich", "  the weather of Glarus, Uri \n", "¿Qué? 天気 …", "a<|en", "|endoftext|>"]
OUTPUTS = 66


def record_tokens(files: dict[str, str], target: Path) -> int:
    """Writes tokens.json; returns how many rows it has."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(files, Path(folder))
        tokenizer = transformers.WhisperTokenizer.from_pretrained(folder)
    prompts = [dict(text=text, ids=tokenizer.get_prompt_ids(text).tolist()) for text in PROMPTS]
    rows = []
    for number in range(OUTPUTS):
        outputs, options = made_up(tokenizer, number)
        rows.append(dict(outputs=outputs) | options | dict(expected=read(tokenizer, outputs, options)))
    compact = dict(ensure_ascii=False, separators=(",", ":"))
    first, second = (",\n".join("    " + json.dumps(row, **compact) for row in part) for part in (prompts, rows))
    target.write_text(f'{{\n  "prompts": [\n{first}\n  ],\n  "outputs": [\n{second}\n  ]\n}}\n')
    return len(prompts) + len(rows)
