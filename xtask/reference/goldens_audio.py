"""tests/data/audio: sounds in the formats of the wild, what feature extractors make of sounds, and CTC decoding.

- `sounds/` and `sounds.json`: files that hold the sound of `made`, which tests/tests/audio.rs has too, and how close to
  it a decoder must come; `opus.ogg`, which is refused. What an encoder writes stays as it is where there is no encoder:
  ffmpeg, or the package imageio-ffmpeg, for the compressed ones, and espeak-ng besides for `speech.wav`.
- `features/<name>/`: a feature extractor's files, `golden.json` with calls, `golden.safetensors` with what they give.
- `ctc/<name>/`: the files of a Wav2Vec2CTCTokenizer, `golden.json` with what it makes of ids.
"""

import json
import shutil
import struct
import subprocess
import tempfile
import wave
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoFeatureExtractor, ClapFeatureExtractor, Wav2Vec2CTCTokenizer

from goldens_tokenizers import write_compact, write_json

# Features in float32 and in float64 agree to this, and so must those of Rust.
TOLERANCE = 1e-4


def splitmix(seed: int, index: np.ndarray) -> np.ndarray:
    """Elements of splitmix64's stream."""
    z = np.uint64(seed) + (index.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def made(rate: int, seconds: float, channel: int = 0) -> np.ndarray:
    """A chirp, a partial that depends on the channel, four clicks a second and a little noise; at most 0.72."""
    i = np.arange(round(rate * seconds))
    t = i / rate
    since = t % 0.25
    chirp = 0.3 * np.sin(2 * np.pi * (300 * t + 100 * t * t))
    partial = 0.2 * np.sin(2 * np.pi * (1200 + 250 * channel) * t)
    click = 0.2 * np.exp(-400 * since) * np.sin(2 * np.pi * 3000 * since)
    noise = 0.02 * ((splitmix(channel, i) >> np.uint64(40)).astype(np.float64) / 8388608 - 1)
    return chirp + partial + click + noise


def wav(path: Path, rate: int, channels: list[np.ndarray], form: str) -> None:
    """A WAV file; `form` is `u8`, `s16`, `s24` or `f32`."""
    frames = np.stack(channels, axis=1)
    if form == "f32":
        tag, width, data = 3, 4, frames.astype("<f4").tobytes()
    else:
        width = {"u8": 1, "s16": 2, "s24": 3}[form]
        scale = 1 << (8 * width - 1)
        whole = np.clip(np.rint(frames * scale), -scale, scale - 1).astype("<i4")
        if form == "u8":
            whole += 128
        data = whole.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()
        tag = 1
    block = width * len(channels)
    form_chunk = struct.pack("<HHIIHH", tag, len(channels), rate, rate * block, block, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", 16) + form_chunk + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)


def read_wav(path: Path) -> np.ndarray:
    """The samples of a mono WAV file of 16 bits."""
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2), path
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def ffmpeg() -> str | None:
    """An ffmpeg, if there is one."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    return imageio_ffmpeg.get_ffmpeg_exe()


# name, rate, channels, seconds, format, and how close a decoder comes: the largest difference
PLAIN = [
    ("mono.wav", 16000, 1, 1.0, "s16", 1e-4),
    ("short.wav", 16000, 1, 0.01, "s16", 1e-4),
    ("eight.wav", 16000, 8, 0.1, "s16", 1e-4),
    ("fast.wav", 192000, 1, 0.1, "s24", 1e-4),
    ("float.wav", 22050, 2, 0.1, "f32", 1e-6),
    # Half a step of 8 bits.
    ("bytes.wav", 8000, 1, 0.25, "u8", 0.004),
]
# name, rate, channels, seconds, ffmpeg's arguments, the largest difference or the correlation
ENCODED = [
    ("stereo.flac", 44100, 2, 0.6, ["-c:a", "flac"], 1e-4, None),
    # The number of an Ogg stream is random otherwise.
    ("stereo.ogg", 44100, 2, 0.6, ["-c:a", "libvorbis", "-q:a", "5", "-fflags", "+bitexact"], None, 0.999),
    ("stereo.mp3", 44100, 2, 0.6, ["-c:a", "libmp3lame", "-b:a", "128k"], None, 0.998),
    ("stereo.m4a", 44100, 2, 0.6, ["-c:a", "aac", "-b:a", "128k"], None, 0.998),
    ("lossless.m4a", 16000, 1, 0.3, ["-c:a", "alac"], 1e-4, None),
    ("telephone.wav", 8000, 1, 0.3, ["-c:a", "pcm_mulaw"], None, 0.999),
    # A codec that is not known: no row.
    ("opus.ogg", 16000, 1, 0.02, ["-c:a", "libopus", "-fflags", "+bitexact"], None, None),
]


def sounds(folder: Path) -> None:
    """`sounds/` and `sounds.json`."""
    (folder / "sounds").mkdir(parents=True, exist_ok=True)
    rows = []
    for name, rate, channels, seconds, form, difference in PLAIN:
        wav(folder / "sounds" / name, rate, [made(rate, seconds, c) for c in range(channels)], form)
        rows.append({"file": name, "rate": rate, "channels": channels, "seconds": seconds, "difference": difference})
    encoder = ffmpeg()
    for name, rate, channels, seconds, arguments, difference, correlation in ENCODED:
        path = folder / "sounds" / name
        if encoder:
            with tempfile.TemporaryDirectory() as temporary:
                plain = Path(temporary) / "plain.wav"
                wav(plain, rate, [made(rate, seconds, c) for c in range(channels)], "s16")
                quiet = [encoder, "-v", "error", "-y", "-i", str(plain)]
                subprocess.run([*quiet, "-map_metadata", "-1", *arguments, str(path)], check=True)
        assert path.is_file(), f"{name} cannot be written: there is no ffmpeg"
        row = {"file": name, "rate": rate, "channels": channels, "seconds": seconds}
        if difference or correlation:
            rows.append(row | ({"difference": difference} if difference else {"correlation": correlation}))
    speech = folder / "sounds" / "speech.wav"
    if encoder and shutil.which("espeak-ng"):
        with tempfile.TemporaryDirectory() as temporary:
            spoken = Path(temporary) / "spoken.wav"
            subprocess.run(["espeak-ng", "-v", "en-us", "-s", "170", "-w", spoken, "Good morning."], check=True)
            quiet = [encoder, "-v", "error", "-y", "-i", str(spoken)]
            subprocess.run([*quiet, "-map_metadata", "-1", "-ar", "16000", "-c:a", "pcm_s16le", speech], check=True)
    assert speech.is_file(), "speech.wav cannot be written: there is no ffmpeg or no espeak-ng"
    write_json(folder / "sounds.json", rows)


def file(name: str) -> dict:
    return {"file": name}


def sine(rate: int, seconds: float, channel: int = 0) -> dict:
    return {"rate": rate, "seconds": seconds, "channel": channel}


def one(sound: dict, stride: int = 1, long: bool = False) -> dict:
    """A call with one sound."""
    return {"sounds": [sound], "batch": False, "long": long, "mask": None, "stride": stride}


def many(*sounds: dict, stride: int = 1, long: bool = False, mask: bool | None = None) -> dict:
    """A call with a list of sounds, padded to the longest."""
    return {"sounds": list(sounds), "batch": True, "long": long, "mask": mask, "stride": stride}


WAV2VEC2 = {
    "do_normalize": True,
    "feature_extractor_type": "Wav2Vec2FeatureExtractor",
    "feature_size": 1,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
WHISPER = {
    "chunk_length": 1,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "hop_length": 160,
    # Older files hold sizes that follow from others; they do not count.
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "n_fft": 400,
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}
CLAP = {
    "feature_extractor_type": "ClapFeatureExtractor",
    "feature_size": 64,
    "max_length_s": 1,
    "padding": "repeatpad",
    "return_attention_mask": False,
    "top_db": None,
    "truncation": "rand_trunc",
}
# name, files, calls
FEATURES = [
    (
        "wav2vec2",
        {"preprocessor_config.json": WAV2VEC2},
        [
            one(file("short.wav")),
            one(sine(16000, 0.1)),
            # Without a mask, the padding takes part in the mean and the variance.
            many(sine(16000, 0.1), file("short.wav")),
            many(sine(16000, 0.05, 1), sine(16000, 0.1), mask=True),
            one(file("speech.wav"), stride=37),
        ],
    ),
    (
        "wav2vec2-mask",
        {
            "preprocessor_config.json": {k: v for k, v in WAV2VEC2.items() if k != "feature_extractor_type"}
            | {"return_attention_mask": True, "padding_value": 1.5},
            "config.json": {"model_type": "wav2vec2"},
        },
        [one(sine(16000, 0.05)), many(sine(16000, 0.05), file("short.wav")), many(sine(16000, 0.05), mask=False)],
    ),
    (
        "wav2vec2-raw",
        {"processor_config.json": {"feature_extractor": WAV2VEC2 | {"do_normalize": False, "padding_value": -1.0}}},
        [one(file("short.wav")), many(file("short.wav"), sine(16000, 0.02), mask=True)],
    ),
    (
        "whisper",
        {"preprocessor_config.json": WHISPER},
        [
            one(file("speech.wav")),
            one(sine(16000, 1.2), stride=3),
            many(file("short.wav"), file("speech.wav"), stride=5, mask=True),
            one(sine(16000, 1.51), stride=5, long=True),
            # Not a whole number of frames.
            many(sine(16000, 1.3177), sine(16000, 0.2), stride=7, long=True, mask=True),
        ],
    ),
    (
        "whisper-large",
        {"preprocessor_config.json": WHISPER | {"feature_size": 128}},
        [one(file("speech.wav"), stride=3), one(sine(16000, 0.4), stride=3)],
    ),
    # The defaults of the class.
    (
        "whisper-default",
        {"preprocessor_config.json": {"feature_extractor_type": "WhisperFeatureExtractor"}},
        [one(sine(16000, 12.3), stride=97), one(sine(16000, 31.0), stride=97)],
    ),
    (
        "ast",
        {
            "preprocessor_config.json": {
                "do_normalize": True,
                "feature_extractor_type": "ASTFeatureExtractor",
                "feature_size": 1,
                "max_length": 60,
                "mean": -6.8,
                "num_mel_bins": 128,
                "padding_value": 0.0,
                "return_attention_mask": False,
                "sampling_rate": 16000,
                "std": 3.5,
            }
        },
        [one(sine(16000, 0.3)), one(file("speech.wav"), stride=3), many(sine(16000, 0.025), sine(16000, 0.2), stride=5)],
    ),
    (
        "ast-default",
        {"preprocessor_config.json": {"feature_extractor_type": "ASTFeatureExtractor"}},
        [one(file("speech.wav"), stride=29)],
    ),
    (
        "ast-raw",
        {
            "preprocessor_config.json": {
                "do_normalize": False,
                "feature_extractor_type": "ASTFeatureExtractor",
                "max_length": 40,
                "num_mel_bins": 80,
                "sampling_rate": 8000,
            }
        },
        [one(sine(8000, 0.5), stride=3)],
    ),
    (
        "clap",
        {"preprocessor_config.json": CLAP},
        [
            one(sine(48000, 0.4), stride=2),
            one(sine(48000, 1.0), stride=5),
            one(sine(48000, 1.7), stride=2),
            many(sine(48000, 1.7), sine(48000, 0.3), sine(48000, 1.2, 1), stride=5),
        ],
    ),
    ("clap-repeat", {"preprocessor_config.json": CLAP | {"padding": "repeat"}}, [one(sine(48000, 0.3), stride=5)]),
    ("clap-pad", {"preprocessor_config.json": CLAP | {"padding": "pad"}}, [one(sine(48000, 0.3), stride=5)]),
    (
        "clap-fusion",
        {"preprocessor_config.json": CLAP | {"truncation": "fusion"}},
        [
            one(sine(48000, 0.4), stride=11),
            one(sine(48000, 1.7), stride=5),
            # Longer, and still not one frame more.
            one(sine(48000, 1.005), stride=11),
            # One frame more: two of the three parts to choose from are empty.
            one(sine(48000, 1.01), stride=11),
            many(sine(48000, 0.4), sine(48000, 2.9), sine(48000, 1.3), stride=17),
            many(sine(48000, 0.4), sine(48000, 0.3), stride=23),
        ],
    ),
]


class Draws:
    """What numpy's random numbers are replaced by: the stream of splitmix64 from seed 0, as in Rust."""

    def __init__(self):
        self.count = 0

    def below(self, n: int) -> int:
        draw = int(splitmix(0, np.array([self.count]))[0])
        self.count += 1
        return draw % n

    def randint(self, low: int, high: int) -> int:
        return low + self.below(high - low)

    def choice(self, values):
        return values[self.below(len(values))]


def samples(sound: dict, folder: Path) -> np.ndarray:
    if "file" in sound:
        return read_wav(folder / "sounds" / sound["file"])
    return made(sound["rate"], sound["seconds"], sound["channel"]).astype(np.float32)


def call(extractor, row: dict, folder: Path) -> dict:
    """What Python makes of one row."""
    inputs = [samples(sound, folder) for sound in row["sounds"]]
    arguments = {"sampling_rate": extractor.sampling_rate, "return_tensors": "np"}
    if not isinstance(extractor, ClapFeatureExtractor):
        arguments["return_attention_mask"] = row["mask"]
        if extractor.model_input_names[0] == "input_values" and row["batch"]:
            arguments["padding"] = True
    if row["long"]:
        arguments |= {"truncation": False, "padding": "longest"}
    draws = Draws()
    real = np.random.randint, np.random.choice
    np.random.randint, np.random.choice = draws.randint, draws.choice
    try:
        output = extractor(inputs if row["batch"] else inputs[0], **arguments)
    finally:
        np.random.randint, np.random.choice = real
    values = output[extractor.model_input_names[0]]
    assert values.dtype == np.float32, values.dtype
    mask = output.get("attention_mask") if row["batch"] else None
    if mask is not None:
        # Ones, then zeros.
        assert (np.diff(mask, axis=1) <= 0).all() and mask.max() == 1
    return {
        "values": values if row["batch"] else values[0],
        "mask": None if mask is None else {"width": mask.shape[1], "ones": mask.sum(axis=1).tolist()},
        "longer": output["is_longer"].reshape(-1).tolist() if "is_longer" in output else None,
    }


def features(folder: Path) -> None:
    """`features/`."""
    shutil.rmtree(folder / "features", ignore_errors=True)
    for name, files, rows in FEATURES:
        place = folder / "features" / name
        place.mkdir(parents=True)
        for file_name, content in files.items():
            write_json(place / file_name, content)
        extractor = AutoFeatureExtractor.from_pretrained(str(place))
        recorded, tensors = [], {}
        for index, row in enumerate(rows):
            output = call(extractor, row, folder)
            values = output.pop("values")
            kept = values.reshape(-1)[:: row["stride"]]
            tensors[f"{index}"] = torch.from_numpy(np.ascontiguousarray(kept))
            arguments = {key: row[key] for key in ("sounds", "batch", "long", "stride")}
            recorded.append(
                arguments | {"return_attention_mask": row["mask"], "shape": list(values.shape)} | output
            )
        write_compact(place / "golden.json", recorded)
        save_file(tensors, place / "golden.safetensors")
        size = sum(path.stat().st_size for path in place.iterdir())
        print(f"audio/features/{name}: {len(rows)} calls, {size / 1024:.0f} KiB", flush=True)


LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"
BASE = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS])}
# As the scripts for fine-tuning write it: the pad token is the last of the vocabulary, <s> and </s> are added behind.
TUNED = {token: i for i, token in enumerate(["|", *"abcdefghijklmnopqrstuvwxyz", "\u00e4", "\u00f6", "\u00df"])}
TUNED |= {"[UNK]": len(TUNED), "[PAD]": len(TUNED) + 1}
NESTED = {
    "eng": BASE,
    "fra": {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"esait\u00e9nrulo"])},
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
# name, files, languages, texts as ids or as tokens
CTC = [
    (
        "base",
        {
            "vocab.json": BASE,
            "tokenizer_config.json": NAMES
            | {"do_lower_case": False, "word_delimiter_token": "|", "tokenizer_class": "Wav2Vec2CTCTokenizer"},
            "special_tokens_map.json": NAMES,
        },
        [None],
        [
            "HH_E_LL_L_OOO||_W_OO_R_L_DD",
            "||_A_||_B_",
            "_____",
            "",
            "A",
            "HE_LLO</s>|<s>YOU<unk>",
            "IT'S__|_|_FINE|",
            [5, 5, 99, 99, 0, 4, 4, 1000, 6],
        ],
    ),
    (
        "tuned",
        {
            "vocab.json": TUNED,
            "tokenizer_config.json": {
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "[UNK]",
                "pad_token": "[PAD]",
                "clean_up_tokenization_spaces": True,
                "do_lower_case": True,
                "replace_word_delimiter_char": " ",
                "word_delimiter_token": "|",
            },
            "added_tokens.json": {"<s>": len(TUNED), "</s>": len(TUNED) + 1},
            "special_tokens_map.json": {
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "[UNK]",
                "pad_token": "[PAD]",
                "additional_special_tokens": [
                    {"content": "<s>", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
                ],
            },
        },
        [None],
        ["sch_\u00f6_n__|_gr_\u00fc_\u00df_ee", "<s>_a_bb_|[UNK]|c</s>", "\u00e4"],
    ),
    (
        "defaults",
        {
            "vocab.json": {token: i for i, token in enumerate(["a", "b", "|", "ch", "<pad>"])},
            "tokenizer_config.json": {
                "added_tokens_decoder": {
                    "5": {"content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
                    "9": {"content": "<x>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
                },
                "extra_special_tokens": ["<x>"],
                "word_delimiter_token": "|",
                "replace_word_delimiter_char": "-",
            },
        },
        [None],
        [[0, 0, 1, 4, 3, 3, 2, 2, 9, 1, 5, 6, 7, 8, 10], [2, 0, 2, 2, 1, 2]],
    ),
    (
        "nested",
        {
            "vocab.json": NESTED,
            "tokenizer_config.json": NAMES | {"target_lang": "eng", "word_delimiter_token": "|"},
        },
        [None, "fra"],
        [[9, 0, 9, 9, 4, 8, 13, 13, 40, 6, 0, 10], [4, 5, 4]],
    ),
]
OPTIONS = [
    {},
    {"output_char_offsets": True, "output_word_offsets": True},
    {"output_word_offsets": True},
    {"skip_special_tokens": True, "output_char_offsets": True},
    {"group_tokens": False},
    {"spaces_between_special_tokens": True},
    {"clean_up_tokenization_spaces": False},
]


def ids_of(text, tokenizer) -> list[int]:
    """Ids of a text in which `_` is the blank; tokens of several letters stand in brackets."""
    if isinstance(text, list):
        return text
    ids, rest = [], text
    while rest:
        end = 1
        if rest[0] in "<[":
            end = rest.index(">" if rest[0] == "<" else "]") + 1
        token = tokenizer.pad_token if rest[0] == "_" else rest[:end]
        ids.append(tokenizer.convert_tokens_to_ids(token))
        rest = rest[end:]
    return ids


def ctc(folder: Path) -> None:
    """`ctc/`."""
    shutil.rmtree(folder / "ctc", ignore_errors=True)
    for name, files, languages, texts in CTC:
        place = folder / "ctc" / name
        place.mkdir(parents=True)
        for file_name, content in files.items():
            write_json(place / file_name, content)
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(str(place))
        rows = []
        for language in languages:
            if language:
                tokenizer.set_target_lang(language)
            for ids in (ids_of(text, tokenizer) for text in texts):
                for options in OPTIONS:
                    output = tokenizer.decode(ids, **options)
                    row = {"language": language, "ids": ids, "options": options}
                    if isinstance(output, str):
                        rows.append(row | {"text": output})
                        continue
                    offsets = {key: plain(output[key]) for key in ("char_offsets", "word_offsets") if key in output}
                    rows.append(row | {"text": output.text} | offsets)
        write_compact(place / "golden.json", rows)
        print(f"audio/ctc/{name}: {len(rows)} rows", flush=True)


def plain(offsets):
    """Offsets with numbers of Python."""
    if offsets is None:
        return None
    return [{k: v if isinstance(v, str) else int(v) for k, v in offset.items()} for offset in offsets]


def record(out: Path) -> None:
    """Writes the folder `audio` in `out`."""
    folder = out / "audio"
    sounds(folder)
    features(folder)
    ctc(folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    print(f"audio: {len(files)} files, {sum(path.stat().st_size for path in files) / 1024:.0f} KiB", flush=True)
