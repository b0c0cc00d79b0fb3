"""Records tests/data/whisper: what Python makes of speech with tiny Whisper models, and of long sounds with a CTC model.

    python generation_whisper.py --out DIR [NAME ...]        DIR is tests/data/whisper; NAME of a model, `tokens` or `ctc`

- `speech.flac`: some 80 seconds that espeak-ng spoke; it stays as it is where there are no espeak-ng and ffmpeg. To read
  it takes an ffmpeg, or the package imageio-ffmpeg.
- `tokenizer.json`, `tokenizer_config.json`: Whisper's tokens around a small byte-level BPE, but for the tokens of time,
  which are `<|0.00|>`, `<|0.02|>` and so on behind all others.
- `<model>/`: the files of a model; `generate.json` with calls of `generate`, and `pipeline.json` with calls of the
  pipeline. A call hears a part of the speech, and is tried with one part after another until the result is fit for a
  test: every decision has a clear margin, float64 and features with a little noise give the same, and the arguments that
  the call is about change it.
- `tokens.json`: what the tokenizer makes of prompts, and of outputs that were made up.
- `ctc.json`: a small wav2vec 2.0, and calls of the pipeline.

Sampling draws other numbers than Python's. Where temperatures are tried in turn, `top_k=1` leaves nothing to chance:
what decides for another temperature, and what follows from it, is recorded nevertheless.
"""

import argparse
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass, field
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import torch
import transformers
from transformers.generation.logits_process import WhisperNoSpeechDetection, WhisperTimeStampLogitsProcessor

import synth
from generation import BEAM_MARGIN, MARGIN, Margins, Unfit
from goldens_audio import ffmpeg
from reference import Failed, exact_softmax, pinned_version
from whisper_tokens import LANGUAGES, TIMES, TOKENS, record_tokens, tokenizer_files, write_tokenizer

RATE = 16000
# How often a call is tried, and from one part of the speech to the next, in samples.
ATTEMPTS = 120
STEP = 17000
# What the features of two implementations may differ by.
NOISE = 1e-4
# Relative distances of what is compared with a threshold: packers differ a little.
RATIO_MARGIN, LOGPROB_MARGIN, NO_SPEECH_MARGIN = 0.05, 0.003, 0.05
# More parts than any call needs: what does not move on is unfit.
MOST_PARTS = 60

# Voice, text, and the silence after it in seconds.
SPEECH = [
    ("en-us", "Good morning, and thank you all for coming.", 0.6),
    ("en-us", "Today we will talk about the weather of the coming week, and about the roads over the mountains.", 1.1),
    ("en-us", "On Monday the sun will shine from early morning until late in the evening.", 0.5),
    ("en-us", "The wind turns to the west, and by Tuesday noon the first clouds will reach the coast.", 2.0),
    ("de", "Am Mittwoch regnet es im ganzen Land, und in den Bergen fällt der erste Schnee.", 0.8),
    ("en-us", "Whoever has to travel should take the train: it runs every twenty minutes, and it is warm.", 0.4),
    ("en-us", "Tickets cost seven pounds fifty.", 2.6),
    ("es", "El jueves volverá el buen tiempo, con dieciséis grados por la tarde.", 0.7),
    ("en-us", "Are there any questions? No? Then let us go on with the second part.", 1.0),
    ("en-us", "The lake rose by four inches last night, which is more than in the whole of March.", 0.5),
    ("en-us", "Nobody was hurt, but two boats were lost, and the old bridge has been closed.", 1.9),
    ("en-us", "We expect it to be open again at the end of the month.", 0.9),
    ("en-us", "That was the news from the valley. Good night, and take care of yourselves.", 1.0),
]


def read_wav(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, RATE), path
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def speak(path: Path, program: str) -> None:
    """Writes speech.flac. Samples have 7 bits, which is enough for features and half of the file."""
    parts = [np.zeros(RATE // 3)]
    with tempfile.TemporaryDirectory() as temporary:
        spoken, resampled = Path(temporary) / "spoken.wav", Path(temporary) / "resampled.wav"
        quiet = [program, "-v", "error", "-y", "-i"]
        for voice, text, silence in SPEECH:
            subprocess.run(["espeak-ng", "-v", voice, "-s", "145", "-w", spoken, text], check=True)
            subprocess.run([*quiet, spoken, "-ar", str(RATE), "-c:a", "pcm_s16le", resampled], check=True)
            parts += [read_wav(resampled) / 32768, np.zeros(round(silence * RATE))]
        samples = np.concatenate(parts)
        coarse = np.rint(samples * (63 / np.abs(samples).max())).astype("<i2") * 512
        with wave.open(str(resampled), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(coarse.astype("<i2").tobytes())
        flac = ["-map_metadata", "-1", "-c:a", "flac", "-compression_level", "12", "-fflags", "+bitexact"]
        subprocess.run([*quiet, resampled, *flac, "-flags:a", "+bitexact", path], check=True)


def speech(folder: Path) -> np.ndarray:
    """The samples of speech.flac, which is written if it is not there."""
    program, path = ffmpeg(), folder / "speech.flac"
    if not program:
        raise SystemExit("speech.flac cannot be read: there is no ffmpeg, and no package imageio-ffmpeg")
    if not path.is_file():
        speak(path, program)
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary) / "plain.wav"
        subprocess.run([program, "-v", "error", "-i", path, "-c:a", "pcm_s16le", plain], check=True)
        return read_wav(plain).astype(np.float32) / 32768


@dataclass(frozen=True)
class Call:
    """A call of `generate`, or of the pipeline."""

    name: str
    # How much of the speech it hears.
    seconds: float
    arguments: dict
    # Keys of generation_config.json for this call; None takes one out.
    settings: dict = field(default_factory=dict)
    # Arguments without which the result has to be another.
    changed: tuple[str, ...] = ()
    # What has to happen: see `Watch.shows`.
    shows: tuple[str, ...] = ()
    # Tokens of time are as good as suppressed: a model that learned something does not write them unasked.
    timeless: bool = False


def short(name: str, seconds=7.0, changed=None, settings=None, shows=(), timeless=True, **arguments) -> Call:
    """A call without times; all of its arguments have to change the result, unless it says which."""
    changed = tuple(arguments) if changed is None else changed
    return Call(name, seconds, dict(max_new_tokens=40) | arguments, settings or {}, changed, shows, timeless)


def timed(name: str, seconds=7.0, changed=None, settings=None, shows=(), **arguments) -> Call:
    """A call with times."""
    return short(name, seconds, changed, settings, shows, False, **dict(return_timestamps=True) | arguments)


def long(name: str, seconds=75.0, changed=None, settings=None, shows=("parts",), **arguments) -> Call:
    """A call with more than the model hears at once."""
    changed = tuple(arguments) if changed is None else changed
    return Call(name, seconds, dict(max_new_tokens=60) | arguments, settings or {}, changed, shows)


def pipe(name: str, seconds: float, settings=None, timeless=False, **arguments) -> Call:
    """A call of the pipeline."""
    return Call(name, seconds, arguments, settings or {}, timeless=timeless)


@dataclass(frozen=True)
class Model:
    """A model, its files, and what it is asked for."""

    name: str
    config: dict
    # Standard deviations by a pattern of the tensor's name. Others are such that numbers stay at about one.
    stds: dict
    # generation_config.json
    settings: dict
    # preprocessor_config.json
    extractor: dict
    calls: list[Call]
    pipelines: list[Call]


EOS, START, PREV = TOKENS["<|endoftext|>"], TOKENS["<|startoftranscript|>"], TOKENS["<|startofprev|>"]
SIZES = dict(
    pad_token_id=EOS,
    bos_token_id=EOS,
    eos_token_id=EOS,
    decoder_start_token_id=START,
    suppress_tokens=None,
    begin_suppress_tokens=None,
)
SETTINGS = dict(
    bos_token_id=EOS,
    eos_token_id=EOS,
    pad_token_id=EOS,
    decoder_start_token_id=START,
    no_timestamps_token_id=TOKENS["<|notimestamps|>"],
    max_initial_timestamp_index=50,
    begin_suppress_tokens=[220, EOS],
    # As OpenAI's models have it: some tokens of text, and the special ones.
    suppress_tokens=[1, 2, 7, 8, 9, 10, 14, 25, *range(START, TIMES)],
)
LANGUAGE_IDS = {f"<|{code}|>": TOKENS[f"<|{code}|>"] for code in LANGUAGES}
TASK_IDS = dict(transcribe=TOKENS["<|transcribe|>"], translate=TOKENS["<|translate|>"])
PROMPT = [PREV, 311, 402, 88, 651]
SHORT, LONG = dict(max_new_tokens=30), dict(max_new_tokens=60, num_beams=1)


# The text depends on the sound and on the tokens so far, words and times take turns, and some texts end.
MULTILINGUAL = Model(
    "multilingual",
    SIZES
    | dict(
        vocab_size=TIMES + 1501,
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        tie_word_embeddings=False,
    ),
    {
        "encoder_attn.(q|k)_proj.weight": 1.0,
        "encoder_attn.v_proj.bias": 0.01,
        "encoder_attn.out_proj.weight": 0.25,
        "decoder.*self_attn.out_proj.weight": 0.125,
        "fc2.weight": 0.09,
        "conv1.weight": 0.39,
        "encoder.embed_positions": 0.05,
        "decoder.embed_positions": 1.0,
        "embed_tokens": 0.6,
        "proj_out": 1.0,
    },
    SETTINGS
    | dict(
        is_multilingual=True,
        lang_to_id=LANGUAGE_IDS,
        task_to_id=TASK_IDS,
        prev_sot_token_id=PREV,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        max_length=448,
        # A random model would hardly ever end a text.
        sequence_bias=[[[EOS], 9.0]],
    ),
    dict(feature_size=80, chunk_length=30),
    [
        short("language", language="en", changed=()),
        short("language-by-name", language="German", changed=()),
        short("language-by-token", language="<|ja|>", changed=()),
        short("language-detected", changed=()),
        short("language-detected-elsewhere", seconds=4.0, changed=()),
        short("translate", language="es", task="translate"),
        short("translate-detected", task="translate"),
        short("transcribe-detected", task="transcribe"),
        short("half-a-minute", seconds=30.0, language="en", changed=()),
        short("less-than-a-frame", seconds=0.007, language="en", changed=()),
        short("prompt", language="en", prompt_ids=PROMPT),
        short("prompt-without-start", language="en", prompt_ids=PROMPT[1:]),
        short("beams-2", language="en", num_beams=2),
        short("beams-5", language="de", num_beams=5, changed=("num_beams",)),
        short("beams-3-prompt", num_beams=3, prompt_ids=PROMPT),
        short("max-new-tokens", max_new_tokens=5),
        short("max-length", settings=dict(max_length=19), max_new_tokens=None, language="fr"),
        short("default-length", settings=dict(max_length=None), max_new_tokens=None, language="fr", changed=()),
        short("default-length-prompt", settings=dict(max_length=None), max_new_tokens=None, prompt_ids=PROMPT),
        short("repetition-penalty", repetition_penalty=1.5),
        short("no-repeat-ngram", no_repeat_ngram_size=1),
        short("times-unasked", seconds=9.0, language="en", timeless=False, changed=()),
        short("forced-ids", settings=dict(forced_decoder_ids=[[1, TOKENS["<|fr|>"]], [2, TASK_IDS["translate"]]])),
        short("forced-ids-detected", settings=dict(forced_decoder_ids=[[1, None], [2, TASK_IDS["transcribe"]]])),
        short("language-and-task-of-the-file", settings=dict(language="zh", task="translate")),
        short("times-of-the-file", settings=dict(return_timestamps=True), timeless=False),
        short("times-of-the-file-not", settings=dict(return_timestamps=True), return_timestamps=False),
        short("token-times", language="en", return_token_timestamps=True, changed=()),
        short("token-times-beams", language="de", return_token_timestamps=True, num_beams=3, changed=("num_beams",)),
        short("token-times-prompt", return_token_timestamps=True, prompt_ids=PROMPT, changed=("prompt_ids",)),
        timed("timed", language="en", changed=()),
        timed("timed-detected", changed=()),
        timed("timed-translate", task="translate", changed=("task",)),
        timed("timed-half-a-minute", seconds=30.0, language="en", changed=()),
        timed("timed-prompt", prompt_ids=PROMPT, language="en", changed=("prompt_ids",)),
        timed("timed-beams-2", num_beams=2, changed=("num_beams",)),
        timed("timed-any-start", settings=dict(max_initial_timestamp_index=None), changed=()),
        timed("timed-no-repeat-ngram", no_repeat_ngram_size=2, changed=("no_repeat_ngram_size",)),
        timed("timed-conditioned", seconds=20.0, condition_on_prev_tokens=True, changed=("condition_on_prev_tokens",)),
        timed("timed-token-times", language="en", return_token_timestamps=True, changed=()),
        timed("timed-token-times-beams", num_beams=2, return_token_timestamps=True, changed=("num_beams",)),
        long("long", language="en", changed=()),
        long("long-detected", changed=()),
        long("long-translate", language="fr", task="translate"),
        long("long-default-length", settings=dict(max_length=None), max_new_tokens=None, language="en", changed=()),
        long("long-max-length", settings=dict(max_length=30), max_new_tokens=None, language="en", changed=()),
        long("long-conditioned", condition_on_prev_tokens=True),
        long("long-conditioned-not", condition_on_prev_tokens=False, language="es", changed=()),
        long("long-conditioned-by-the-file", settings=dict(condition_on_prev_tokens=True), language="en"),
        long("long-conditioned-unnamed", settings=dict(prev_sot_token_id=None), condition_on_prev_tokens=True),
        long("long-prompt", prompt_ids=PROMPT),
        long("long-prompt-conditioned", prompt_ids=PROMPT, condition_on_prev_tokens=True),
        long(
            "long-prompt-all-segments",
            prompt_ids=PROMPT,
            condition_on_prev_tokens=True,
            prompt_condition_type="all-segments",
            changed=("prompt_ids", "prompt_condition_type"),
        ),
        long("long-beams-2", num_beams=2),
        long("long-beams-2-conditioned", num_beams=2, condition_on_prev_tokens=True),
        long("long-token-times", language="en", return_token_timestamps=True, changed=()),
        long("long-token-times-conditioned", return_token_timestamps=True, condition_on_prev_tokens=True, changed=()),
        long("long-token-times-beams", return_token_timestamps=True, num_beams=2, changed=("num_beams",)),
        # A temperature that is not 0 leaves no beams.
        short("warm", num_beams=3, temperature=0.3, top_k=1, changed=("temperature",)),
        short(
            "fallback",
            num_beams=3,
            temperature=[0.0, 0.2, 0.4],
            logprob_threshold=-0.1,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
        ),
        short(
            "fallback-ratio",
            num_beams=3,
            temperature=[0.0, 0.2, 0.4],
            compression_ratio_threshold=0.3,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold"),
        ),
        timed("no-speech", temperature=0.0, logprob_threshold=-0.1, no_speech_threshold=1e-30, changed=("no_speech_threshold",)),
        long(
            "long-fallback",
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.55,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
            shows=("fallback",),
        ),
    ],
    [
        pipe("text", 7.0, timeless=True, generate_kwargs=SHORT),
        pipe("text-greedy", 7.0, timeless=True, generate_kwargs=SHORT | dict(num_beams=1)),
        pipe("text-beams-of-the-file", 7.0, timeless=True, settings=dict(num_beams=1), generate_kwargs=SHORT),
        pipe("text-language", 7.0, timeless=True, return_language=True, generate_kwargs=SHORT),
        pipe("text-translate", 7.0, timeless=True, generate_kwargs=SHORT | dict(language="de", task="translate")),
        pipe("text-of-the-file", 7.0, settings=dict(return_timestamps=True), generate_kwargs=SHORT),
        pipe("segments", 9.0, return_timestamps=True, generate_kwargs=SHORT),
        pipe("segments-language", 9.0, return_timestamps=True, return_language=True, generate_kwargs=SHORT),
        pipe("words", 9.0, return_timestamps="word", generate_kwargs=SHORT),
        pipe("words-timeless", 9.0, timeless=True, return_timestamps="word", generate_kwargs=SHORT | dict(num_beams=1)),
        pipe("long-text", 75.0, generate_kwargs=LONG),
        pipe("long-segments", 75.0, return_timestamps=True, generate_kwargs=LONG),
        pipe("long-segments-language", 75.0, return_timestamps=True, return_language=True, generate_kwargs=LONG),
        pipe("long-words", 75.0, return_timestamps="word", generate_kwargs=LONG),
        pipe("long-words-conditioned", 75.0, return_timestamps="word", generate_kwargs=LONG | dict(condition_on_prev_tokens=True)),
        pipe("chunks", 40.0, timeless=True, chunk_length_s=12, generate_kwargs=SHORT | dict(num_beams=1)),
        pipe("chunks-language", 40.0, timeless=True, chunk_length_s=12, return_language=True, generate_kwargs=SHORT | dict(num_beams=1)),
        pipe("chunks-segments", 75.0, chunk_length_s=30, return_timestamps=True, generate_kwargs=LONG),
        pipe("chunks-segments-stride", 60.0, chunk_length_s=20, stride_length_s=[4, 2.5], return_timestamps=True, generate_kwargs=LONG),
        pipe("chunks-words", 75.0, chunk_length_s=30, return_timestamps="word", generate_kwargs=LONG),
    ],
)

# Half a second of everything: 5 seconds at once, and no languages.
ENGLISH = Model(
    "english",
    SIZES
    | dict(
        vocab_size=TIMES + 251,
        num_mel_bins=128,
        d_model=48,
        encoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_layers=3,
        decoder_attention_heads=3,
        decoder_ffn_dim=96,
        max_source_positions=250,
        max_target_positions=96,
        median_filter_width=5,
    ),
    {
        "encoder_attn.(q|k)_proj.weight": 2.0,
        "encoder_attn.v_proj.bias": 0.01,
        "encoder_attn.out_proj.weight": 1.15,
        "decoder.*self_attn.out_proj.weight": 0.87,
        "fc2.weight": 0.1,
        "conv1.weight": 0.5,
        "encoder.embed_positions": 0.2,
        "decoder.embed_positions": 1.0,
        "embed_tokens": 0.8,
    },
    SETTINGS
    | dict(
        is_multilingual=False,
        alignment_heads=[[0, 1], [2, 0], [2, 1]],
        max_length=96,
        max_initial_timestamp_index=25,
        sequence_bias=[[[EOS], 2.0]],
    ),
    dict(feature_size=128, chunk_length=5),
    [
        short("greedy", seconds=4.0, max_new_tokens=None),
        short("beams-3", seconds=4.0, num_beams=3),
        timed("timed", seconds=5.0, max_new_tokens=None, changed=()),
        timed("timed-token-times", seconds=4.0, return_token_timestamps=True, changed=()),
        long("long", max_new_tokens=None),
        long("long-max-new-tokens", max_new_tokens=25),
        long("long-beams-3", seconds=16.0, num_beams=3),
        long("long-any-start", settings=dict(max_initial_timestamp_index=None), changed=()),
        long("long-conditioned", max_new_tokens=None, condition_on_prev_tokens=True),
        long("long-conditioned-max-new-tokens", max_new_tokens=30, condition_on_prev_tokens=True),
        long("long-prompt", prompt_ids=PROMPT[1:], max_new_tokens=40),
        long("long-token-times", return_token_timestamps=True, changed=()),
        long("long-repetition-penalty", repetition_penalty=1.3),
        long("long-silent-frames", settings=dict(alignment_heads=[[1, 2]]), return_token_timestamps=True, changed=()),
        long(
            "long-fallback",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.6,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-ratio",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2, 0.4],
            compression_ratio_threshold=0.85,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-ratio-of-the-file",
            seconds=22.0,
            settings=dict(compression_ratio_threshold=0.85),
            num_beams=2,
            temperature=[0.0, 0.2, 0.4],
            top_k=1,
            changed=("temperature",),
            shows=("fallback",),
        ),
        # What was said at a high temperature is no condition for what is said next.
        long(
            "long-fallback-conditioned",
            max_new_tokens=30,
            temperature=[0.0, 0.3, 0.6],
            compression_ratio_threshold=1.0,
            condition_on_prev_tokens=True,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold", "condition_on_prev_tokens"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-all",
            seconds=22.0,
            max_new_tokens=30,
            num_beams=3,
            temperature=[0.0, 0.5, 1.0],
            compression_ratio_threshold=0.9,
            logprob_threshold=-0.7,
            top_k=1,
            condition_on_prev_tokens=True,
            changed=("temperature", "compression_ratio_threshold", "logprob_threshold"),
            shows=("fallback",),
        ),
        long(
            "long-no-speech",
            temperature=0.0,
            logprob_threshold=-0.6,
            no_speech_threshold=1e-9,
            changed=("no_speech_threshold",),
            shows=("skip",),
        ),
        long(
            "long-no-speech-conditioned",
            max_new_tokens=30,
            temperature=[0.0, 0.8],
            logprob_threshold=-0.6,
            no_speech_threshold=1e-9,
            condition_on_prev_tokens=True,
            top_k=1,
            changed=("no_speech_threshold", "condition_on_prev_tokens"),
            shows=("skip", "fallback"),
        ),
        long(
            "long-no-speech-beams",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.7,
            no_speech_threshold=1e-9,
            top_k=1,
            changed=("no_speech_threshold", "temperature"),
            shows=("skip", "fallback"),
        ),
    ],
    [
        pipe("text", 4.0, timeless=True),
        pipe("words", 4.0, return_timestamps="word"),
        pipe("long-text", 75.0, generate_kwargs=LONG),
        pipe("long-segments", 75.0, return_timestamps=True, generate_kwargs=LONG),
        pipe("long-segments-beams", 18.0, return_timestamps=True, generate_kwargs=dict(max_new_tokens=40)),
        pipe("long-words", 75.0, return_timestamps="word", generate_kwargs=LONG),
        pipe("chunks-text", 20.0, timeless=True, chunk_length_s=4, generate_kwargs=LONG),
        pipe("chunks-segments", 60.0, chunk_length_s=5, return_timestamps=True, generate_kwargs=LONG),
        pipe("chunks-words", 60.0, chunk_length_s=4, stride_length_s=1, return_timestamps="word", generate_kwargs=LONG),
    ],
)


class Timed(WhisperTimeStampLogitsProcessor):
    """Tells by how much times are more probable than words, or less."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._detect_timestamp_from_logprob = False
        before = super().__call__(input_ids, scores)
        self._detect_timestamp_from_logprob = True
        words, times = before[:, : self.timestamp_begin], before[:, self.timestamp_begin :]
        gaps = (torch.logsumexp(times, -1) - words.max(-1).values).abs()
        self.watch.decide(float(gaps[gaps.isfinite()].min()) if gaps.isfinite().any() else math.inf, MARGIN)
        return super().__call__(input_ids, scores)


class Watch(Margins):
    """What happens in a call, and the smallest difference that decided anything."""

    NAMES = (
        "_need_fallback",
        "_retrieve_init_tokens",
        "_retrieve_logit_processors",
        "detect_language",
        "generate_with_fallback",
    )

    def __init__(self, model: torch.nn.Module):
        super().__init__(model)
        self.names += self.NAMES
        # Of greedy steps.
        self.greedy = math.inf
        self.init: list[int] = []
        # Temperature, whether it was not good enough, whether it was left out; a list for each part.
        self.parts: list[list[tuple[float, bool, bool]]] = []

    def decide(self, gap: float, limit: float) -> None:
        """Refuses a distance that is not larger than its limit."""
        if not gap > limit:
            raise Unfit("too narrow")

    def neighbours(self, values: torch.Tensor) -> None:
        super().neighbours(values)
        self.decide(self.smallest, BEAM_MARGIN)

    def watch(self, name: str, original):
        return getattr(self, name)(original) if name in self.NAMES else super().watch(name, original)

    def _retrieve_init_tokens(self, original):
        def watched(*arguments, **keywords):
            tokens = original(*arguments, **keywords)
            self.init = tokens[0].tolist()
            return tokens

        return watched

    def detect_language(self, original):
        def watched(**keywords):
            config = keywords["generation_config"]
            sound = keywords["input_features"][:, :, : keywords["num_segment_frames"]]
            first = torch.tensor([[config.decoder_start_token_id]])
            scores = self.model(input_features=sound, decoder_input_ids=first).logits[0, -1]
            best = scores[list(config.lang_to_id.values())].topk(2).values
            self.decide(float(best[0] - best[1]), MARGIN)
            return original(**keywords)

        return watched

    def _retrieve_logit_processors(self, original):
        def last(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if len(scores) == 1:
                best = scores[0].topk(2).values
                self.greedy = min(self.greedy, float(best[0] - best[1]))
                self.decide(self.greedy, MARGIN)
            return scores

        def watched(**keywords):
            processors = original(**keywords) or []
            for processor in processors:
                if isinstance(processor, WhisperTimeStampLogitsProcessor):
                    processor.__class__, processor.watch = Timed, self
            return [*processors, last]

        return watched

    def generate_with_fallback(self, original):
        def watched(**keywords):
            self.parts.append([])
            if len(self.parts) > MOST_PARTS:
                raise Unfit("too many parts")
            return original(**keywords)

        return watched

    def _need_fallback(self, original):
        def watched(sequence, outputs, index, processors, config, vocab_size, temperature):
            result = original(sequence, outputs, index, processors, config, vocab_size, temperature)
            self.parts[-1].append((temperature, *result))
            ratio, logprob, silence = (
                getattr(config, f"{name}_threshold") for name in ("compression_ratio", "logprob", "no_speech")
            )
            figures = []
            if ratio is not None:
                figures.append(self.model._retrieve_compression_ratio(sequence, vocab_size))
                self.decide(abs(figures[-1] / ratio - 1), RATIO_MARGIN)
            if logprob is not None:
                scores = outputs[index]["scores"]
                figures.append(float(self.model._retrieve_avg_logprobs(scores, sequence, temperature)))
                self.decide(abs(figures[-1] - logprob), LOGPROB_MARGIN)
            if silence is not None:
                detection = next(each for each in processors if isinstance(each, WhisperNoSpeechDetection))
                figures.append(float(detection.no_speech_prob[index]))
                self.decide(abs(figures[-1] / silence - 1), NO_SPEECH_MARGIN)
            if "TX_SHOW" in os.environ:
                print("   ", temperature, result, figures)
            return result

        return watched

    def shows(self, what: str) -> bool:
        """Whether something happened in some parts, and not in others."""
        if what == "parts":
            return len(self.parts) > 2
        if what == "fallback":
            return len({len(tries) for tries in self.parts}) > 1
        skipped = {tries[-1][2] for tries in self.parts}
        return {"skip": len(skipped) == 2}[what]


class Perturbed:
    """A feature extractor whose values are a little wrong."""

    def __init__(self, extractor, seed: int):
        self.extractor, self.seed = extractor, seed

    def __getattr__(self, name: str):
        return getattr(self.extractor, name)

    def __call__(self, *arguments, **keywords):
        output = self.extractor(*arguments, **keywords)
        features = output["input_features"]
        noise = synth.values(f"noise/{self.seed}", list(features.shape), 0.0, NOISE / math.sqrt(3))
        output["input_features"] = features + torch.from_numpy(noise).to(features.dtype)
        return output


def generated(model, extractor, samples: np.ndarray, arguments: dict) -> list[dict]:
    """The segments of a call of `generate`."""
    whole = dict(truncation=False, padding="longest") if len(samples) > extractor.n_samples else {}
    features = extractor(samples, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True, **whole)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if "prompt_ids" in arguments:
        arguments["prompt_ids"] = torch.tensor(arguments["prompt_ids"])
    with torch.no_grad():
        output = model.generate(
            features.input_features.to(model.dtype),
            attention_mask=features.attention_mask,
            return_segments=True,
            **arguments,
        )
    segments = []
    for segment in output["segments"][0]:
        row = {name: round(float(segment[name]), 2) for name in ("start", "end")}
        row["tokens"] = segment["tokens"].tolist()
        if "token_timestamps" in segment:
            row["token_timestamps"] = [round(float(time), 2) for time in segment["token_timestamps"]]
        segments.append(row)
    return segments


@dataclass
class Loaded:
    """A model's folder, with both models of it."""

    folder: Path
    model: torch.nn.Module
    exact: torch.nn.Module
    extractor: transformers.WhisperFeatureExtractor

    def answer(self, call: Call, arguments: dict, samples: np.ndarray, pipeline: bool, exact=False, seed=None):
        """What a call gives."""
        model = self.exact if exact else self.model
        extractor = self.extractor if seed is None else Perturbed(self.extractor, seed)
        if not pipeline:
            return generated(model, extractor, samples, arguments)
        tokenizer = transformers.WhisperTokenizer.from_pretrained(self.folder)
        made = transformers.pipeline(
            "automatic-speech-recognition",
            model=model,
            tokenizer=tokenizer,
            feature_extractor=self.extractor,
            device="cpu",
            dtype=model.dtype,
        )
        made.feature_extractor = extractor
        return plain(made(samples.copy(), **arguments))

    def set(self, call: Call) -> None:
        """Gives both models the settings of a call."""
        settings = json.loads((self.folder / "generation_config.json").read_text()) | call.settings
        settings = {key: value for key, value in settings.items() if value is not None}
        if call.timeless:
            settings["suppress_tokens"] = settings["suppress_tokens"] + times(self.model.config.vocab_size)
        for model in (self.model, self.exact):
            model.generation_config = transformers.GenerationConfig(**settings)
            model.model.config._attn_implementation = "eager"


def times(vocab_size: int) -> list[int]:
    return list(range(TIMES, vocab_size))


def plain(result):
    """A result as JSON."""
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [plain(value) for value in result]
    return result


def attempt(loaded: Loaded, call: Call, samples: np.ndarray, pipeline: bool) -> tuple[dict, Watch]:
    """One call with a part of the speech."""
    loaded.set(call)
    with Watch(loaded.model) as watch:
        result = loaded.answer(call, call.arguments, samples, pipeline)
    # How a beam search ended.
    watch.decide(watch.smallest, BEAM_MARGIN)
    for what in call.shows:
        if not watch.shows(what):
            raise Unfit(f"no {what}")
    for name in call.changed:
        if call.arguments[name] is None:
            continue
        others = {other: value for other, value in call.arguments.items() if other != name}
        if loaded.answer(call, others, samples, pipeline) == result:
            raise Unfit(f"`{name}` changes nothing")
    with exact_softmax():
        if loaded.answer(call, call.arguments, samples, pipeline, exact=True) != result:
            raise Unfit("float64 gives another result")
    for seed in range(2):
        if loaded.answer(call, call.arguments, samples, pipeline, seed=seed) != result:
            raise Unfit("noise gives another result")
    return result, watch


def find(loaded: Loaded, call: Call, sound: np.ndarray, pipeline: bool) -> tuple[int, dict]:
    """The first part of the speech whose result is fit for a test."""
    length, reasons = round(call.seconds * RATE), []
    first = synth.seed(call.name) % len(sound)
    for number in range(ATTEMPTS):
        start = (first + number * STEP) % (len(sound) - length)
        try:
            result, watch = attempt(loaded, call, sound[start : start + length], pipeline)
        except Unfit as reason:
            reasons.append(str(reason))
            continue
        entry = dict(name=call.name, samples=[start, start + length])
        if call.settings:
            entry["settings"] = call.settings
        if call.timeless:
            entry["timeless"] = True
        entry["arguments"] = {name: value for name, value in call.arguments.items() if value is not None}
        if pipeline:
            return number, entry | dict(output=result)
        language = next((token for token in watch.init if token in LANGUAGE_IDS.values()), None)
        return number, entry | dict(language=language, segments=result)
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    raise Failed(f"no part of {ATTEMPTS} is fit: {counts}")


def recipe(model: torch.nn.Module, stds: dict) -> dict:
    """weights.json: a mean and a standard deviation of every tensor."""
    weights = {}
    for name, tensor in model.named_parameters():
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        std = 0.1 if tensor.dim() == 1 else 1.2 / math.sqrt(math.prod(tensor.shape[1:]))
        for pattern, value in stds.items():
            std = value if re.search(pattern, name) else std
        weights[name] = dict(shape=list(tensor.shape), mean=mean, std=round(std, 4))
    return dict(sorted(weights.items()))


def rows(entries: list[dict]) -> str:
    return "[\n" + ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n]\n"


def record(subject: Model, sound: np.ndarray, files: dict[str, str], out: Path, only: str | None) -> tuple[int, int]:
    """Writes one folder. Returns how many calls were recorded and how many could not be."""
    model_class, target = transformers.WhisperForConditionalGeneration, out / subject.name
    target.mkdir(parents=True, exist_ok=True)
    extractor = transformers.WhisperFeatureExtractor(**subject.extractor)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built = model_class(transformers.WhisperConfig(**subject.config))
        built.save_pretrained(folder)
        weights = recipe(built, subject.stds)
        synth.write_checkpoint(weights, folder)
        write_tokenizer(files, folder)
        settings = json.dumps(subject.settings, indent=2) + "\n"
        (folder / "generation_config.json").write_text(settings)
        config = (folder / "config.json").read_text()
        load = lambda dtype: model_class.from_pretrained(folder, attn_implementation="eager", dtype=dtype).eval()
        loaded = Loaded(folder, load(torch.float32), load(torch.float64), extractor)
        count, failures = 0, 0
        for name, calls, pipeline in (("generate", subject.calls, False), ("pipeline", subject.pipelines, True)):
            entries = []
            for call in calls:
                if only and only != call.name:
                    continue
                try:
                    number, entry = find(loaded, call, sound, pipeline)
                except Exception as failure:
                    failures += 1
                    print(f"{subject.name}/{call.name}: FAILED: {type(failure).__name__}: {failure}", flush=True)
                    continue
                entries.append(entry)
                print(f"{subject.name}/{name}/{call.name}: part {number}", flush=True)
            count += len(entries)
            if not only:
                (target / f"{name}.json").write_text(rows(entries))
    (target / "config.json").write_text(config.rstrip("\n") + "\n")
    (target / "generation_config.json").write_text(settings)
    processor = dict(feature_extractor_type="WhisperFeatureExtractor") | subject.extractor
    (target / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    tensors = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in weights.items()]
    (target / "weights.json").write_text("{\n" + ",\n".join(tensors) + "\n}\n")
    return count, failures


def main() -> int:
    parser = argparse.ArgumentParser(description="record what Python makes of speech")
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data/whisper")
    models = [MULTILINGUAL, ENGLISH]
    names = [subject.name for subject in models] + ["tokens", "ctc"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    parser.add_argument("--only", metavar="CALL", help="tries this call alone and writes nothing")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in names]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    installed = importlib.metadata.version("transformers")
    if installed != pinned_version():
        parser.error(f"transformers {installed} is installed, calls are recorded with {pinned_version()}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    args.out.mkdir(parents=True, exist_ok=True)
    files = tokenizer_files()
    for name, content in files.items():
        (args.out / name).write_text(content)
    sound = speech(args.out)
    print(f"speech.flac: {len(sound) / RATE:.1f} s, {(args.out / 'speech.flac').stat().st_size // 1024} KiB", flush=True)

    count, failures = 0, 0
    for subject in models:
        if args.names and subject.name not in args.names:
            continue
        recorded, failed = record(subject, sound, files, args.out, args.only)
        count, failures = count + recorded, failures + failed
    if not args.names or "tokens" in args.names:
        print(f"tokens: {record_tokens(files, args.out / 'tokens.json')} rows")
    print(f"{count} calls, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
