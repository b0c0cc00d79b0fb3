"""Records tests/data/whisper: what Python makes of speech with tiny Whisper models.

    python generation_whisper.py --out DIR [NAME ...]        DIR is tests/data/whisper; NAME of a model, or `tokens`

- `speech.flac`: some 80 seconds that espeak-ng spoke; it stays as it is where there are no espeak-ng and ffmpeg. To read
  it takes an ffmpeg, or the package imageio-ffmpeg.
- `tokenizer.json`, `tokenizer_config.json`: Whisper's tokens around a small byte-level BPE, but for the tokens of time,
  which are `<|0.00|>`, `<|0.02|>` and so on behind all others.
- `<model>/`: the files of a model; `generate.json` with calls of `generate`, and `pipeline.json` with calls of the
  pipeline. A call hears a part of the speech, and is tried with one part after another until the result is fit for a
  test: every decision has a clear margin, float64, features with a little noise and attention without its faintest
  weights give the same, and the arguments that the call is about change it. `attempts` says what was tried for each
  part of the sound, and what decided.
- `tokens.json`: what the tokenizer makes of prompts, and of outputs that were made up.

Models and calls are in `whisper_calls.py`.

Sampling draws other numbers than Python's. Where temperatures are tried in turn, `top_k=1` leaves nothing to chance, and
neither does a temperature of almost 0, at which a token is as probable by its model as without a temperature.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import wave
from dataclasses import dataclass
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
from whisper_calls import ENGLISH, LANGUAGE_IDS, MULTILINGUAL, Call, Model
from whisper_tokens import TIMES, record_tokens, tokenizer_files, write_tokenizer

RATE = 16000
# How often a call is tried, and from one part of the speech to the next, in samples.
ATTEMPTS = 120
STEP = 17000
# What the features of two implementations may differ by: some thirty times the rounding of float32, whose mean is 3e-7.
NOISE = 1e-5
# Relative distances of what is compared with a threshold: packers differ a little.
RATIO_MARGIN, LOGPROB_MARGIN, NO_SPEECH_MARGIN = 0.03, 0.003, 0.05
# What a result has at least, in tokens or characters.
LEAST_TOKENS, LEAST_TEXT = 4, 12
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
        # What was tried; a list for each part.
        self.parts: list[list[dict]] = []
        # Where the last part begins, in frames.
        self.seek = 0

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
            self.seek = int(keywords["seek"][0])
            if len(self.parts) > MOST_PARTS:
                raise Unfit("too many parts")
            return original(**keywords)

        return watched

    def _need_fallback(self, original):
        def watched(sequence, outputs, index, processors, config, vocab_size, temperature):
            result = original(sequence, outputs, index, processors, config, vocab_size, temperature)
            tried = dict(seek=self.seek)
            if temperature:
                tried["temperature"] = temperature
            tried |= {name: True for name, holds in zip(("needs_fallback", "should_skip"), result) if holds}
            ratio, logprob, silence = (
                getattr(config, f"{name}_threshold") for name in ("compression_ratio", "logprob", "no_speech")
            )
            if ratio is not None:
                figure = self.model._retrieve_compression_ratio(sequence, vocab_size)
                self.decide(abs(figure / ratio - 1), RATIO_MARGIN)
                tried["compression_ratio"] = round(figure, 6)
            if logprob is not None:
                scores = outputs[index]["scores"]
                figure = float(self.model._retrieve_avg_logprobs(scores, sequence, temperature))
                self.decide(abs(figure - logprob), LOGPROB_MARGIN)
                tried["avg_logprob"] = round(figure, 6)
            if silence is not None:
                detection = next(each for each in processors if isinstance(each, WhisperNoSpeechDetection))
                figure = float(detection.no_speech_prob[index])
                self.decide(abs(figure / silence - 1), NO_SPEECH_MARGIN)
                tried["no_speech_prob"] = float(f"{figure:.6g}")
            self.parts[-1].append(tried)
            if "TX_SHOW" in os.environ:
                print("   ", tried)
            return result

        return watched

    def shows(self, what: str) -> bool:
        """Whether something happened in some parts, and not in others."""
        if what == "parts":
            return len(self.parts) > 2
        if what == "fallback":
            return len({len(tries) for tries in self.parts}) > 1
        skipped = {"should_skip" in tries[-1] for tries in self.parts}
        return {"skip": len(skipped) == 2}[what]


@contextlib.contextmanager
def faint_softmax():
    """Lets no weight be less than e⁻⁸⁷ of the largest: implementations differ in what single precision hardly holds.

    Times of tokens come from weights of any size, because these are compared with each other alone.
    """
    softmax = torch.nn.functional.softmax

    def faint(scores: torch.Tensor, dim: int, dtype=None) -> torch.Tensor:
        return softmax((scores - scores.amax(dim, keepdim=True)).clamp(min=-87.0), dim=dim, dtype=dtype)

    torch.nn.functional.softmax = faint
    try:
        yield
    finally:
        torch.nn.functional.softmax = softmax


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


def rich(result, pipeline: bool) -> bool:
    """Whether there is enough in a result to tell it from others."""
    if pipeline:
        return len(result["text"]) >= LEAST_TEXT
    return sum(len(segment["tokens"]) for segment in result) >= LEAST_TOKENS


def attempt(loaded: Loaded, call: Call, samples: np.ndarray, pipeline: bool) -> tuple[dict, Watch]:
    """One call with a part of the speech."""
    loaded.set(call)
    with Watch(loaded.model) as watch:
        result = loaded.answer(call, call.arguments, samples, pipeline)
    # How a beam search ended.
    watch.decide(watch.smallest, BEAM_MARGIN)
    if not rich(result, pipeline):
        raise Unfit("too little")
    for what in call.shows:
        if not watch.shows(what):
            raise Unfit(f"no {what}")
    for seed in range(2):
        if loaded.answer(call, call.arguments, samples, pipeline, seed=seed) != result:
            raise Unfit("noise gives another result")
    for name in call.changed:
        if call.arguments[name] is None:
            continue
        others = {other: value for other, value in call.arguments.items() if other != name}
        if name == "temperature":
            # Python compares it with 0 where there are thresholds.
            others[name] = 0.0
        if loaded.answer(call, others, samples, pipeline) == result:
            raise Unfit(f"`{name}` changes nothing")
    with faint_softmax():
        if loaded.answer(call, call.arguments, samples, pipeline) != result:
            raise Unfit("what hardly counts gives another result")
    with exact_softmax():
        if loaded.answer(call, call.arguments, samples, pipeline, exact=True) != result:
            raise Unfit("float64 gives another result")
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
        attempts = [tried for part in watch.parts for tried in part]
        return number, entry | dict(language=language, attempts=attempts, segments=result)
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
    if not only:
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
                began = time.monotonic()
                try:
                    number, entry = find(loaded, call, sound, pipeline)
                except Exception as failure:
                    failures += 1
                    print(f"{subject.name}/{call.name}: FAILED: {type(failure).__name__}: {failure}", flush=True)
                    continue
                entries.append(entry)
                print(f"{subject.name}/{name}/{call.name}: part {number}, {time.monotonic() - began:.0f} s", flush=True)
            count += len(entries)
            if not only:
                (target / f"{name}.json").write_text(rows(entries))
        if only:
            return count, failures
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
    names = [subject.name for subject in models] + ["tokens"]
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
    if not args.only:
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
    if not args.only and (not args.names or "tokens" in args.names):
        print(f"tokens: {record_tokens(files, args.out / 'tokens.json')} rows")
    print(f"{count} calls, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
