"""tests/data/media: what Python's pipelines say about pictures and sounds.

Each file describes a model, made of a recorded case of `models/` and the files that a pipeline needs besides, and holds
calls with their arguments, inputs and results. Inputs are files of tests/data/images/pictures or tests/data/audio/sounds.
The masks of segments are recorded as the lengths of runs of pixels, which are outside and inside in turn.
"""

import json
import shutil
import tempfile
import wave
from pathlib import Path

import numpy as np
import transformers
from PIL import Image

import synth

MODELS = Path(__file__).parents[2] / "models"
PICTURES = ["flower.jpg", "grey.png", "photo.png"]
WORDS = ["<pad>", "<unk>", "<end>", "this", "is", "a", "photo", "sound", "of", "cat", "dog", "rain", "bird", "."]
LABELS = dict(candidate_labels=["cat", "dog", "bird"])


def square(kind: str, side: int) -> dict:
    """The settings of an image processor that gives squares."""
    return dict(image_processor_type=kind, size=dict(height=side, width=side))


def words(end: int) -> dict:
    """A tokenizer of a few words, with a token at the end of every text."""
    vocabulary = {word: number for number, word in enumerate(WORDS)} | {"<end>": end}
    special = dict(special=True, lstrip=False, rstrip=False, single_word=False, normalized=False)
    sequence = [dict(Sequence=dict(id="A", type_id=0)), dict(SpecialToken=dict(id="<end>", type_id=0))]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [dict(id=vocabulary[word], content=word, **special) for word in ("<pad>", "<unk>", "<end>")],
        "normalizer": dict(type="Lowercase"),
        "pre_tokenizer": dict(type="Whitespace"),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": sequence,
            "pair": [*sequence, dict(Sequence=dict(id="B", type_id=0))],
            "special_tokens": {"<end>": dict(id="<end>", ids=[end], tokens=["<end>"])},
        },
        "decoder": None,
        "model": dict(type="WordLevel", vocab=vocabulary, unk_token="<unk>"),
    }
    settings = dict(tokenizer_class="PreTrainedTokenizerFast", pad_token="<pad>", unk_token="<unk>", model_max_length=20)
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": settings}


def settings(processor: dict, **files) -> dict:
    """Files of a model's folder."""
    return {"preprocessor_config.json": processor} | files


DETR = dict(image_processor_type="DetrImageProcessor", size=dict(shortest_edge=32, longest_edge=64))
CLIP = dict(
    image_processor_type="CLIPImageProcessor",
    size=dict(shortest_edge=12),
    crop_size=dict(height=12, width=12),
)
WAVES = dict(feature_extractor_type="Wav2Vec2FeatureExtractor", sampling_rate=16000, do_normalize=True)
CTC = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefg"])}
AST = dict(feature_extractor_type="ASTFeatureExtractor", num_mel_bins=11, max_length=17, mean=-4.0, std=4.5)
CLAP = dict(
    feature_extractor_type="ClapFeatureExtractor",
    feature_size=16,
    sampling_rate=16000,
    hop_length=256,
    max_length_s=1,
    fft_window_size=1024,
    frequency_max=8000,
    padding="repeatpad",
    truncation="rand_trunc",
)
SOUNDS = ["speech.wav", "mono.wav"]

# Name, task, case of models/, files besides, inputs, and the arguments of calls.
GOLDENS = [
    (
        "image-classification",
        "image-classification",
        "vit/image-classification",
        settings(square("ViTImageProcessor", 16)),
        PICTURES,
        [{}, dict(top_k=2), dict(function_to_apply="sigmoid"), dict(function_to_apply="none")],
    ),
    (
        "image-classification-one-label",
        "image-classification",
        "vit/image-classification-one-label",
        settings(square("ViTImageProcessor", 16)),
        PICTURES,
        [{}],
    ),
    (
        "image-classification-two-heads",
        "image-classification",
        "deit/image-classification-with-teacher",
        settings(square("DeiTImageProcessor", 20) | dict(crop_size=dict(height=16, width=16))),
        PICTURES,
        [{}],
    ),
    (
        "image-feature-extraction",
        "image-feature-extraction",
        "vit/model",
        settings(square("ViTImageProcessor", 16)),
        PICTURES[:2],
        [{}, dict(pool=True)],
    ),
    (
        "image-feature-extraction-map",
        "image-feature-extraction",
        "resnet/model",
        settings(dict(image_processor_type="ConvNextImageProcessor", size=dict(shortest_edge=24), crop_pct=0.75)),
        PICTURES[:2],
        [{}],
    ),
    (
        "object-detection-detr",
        "object-detection",
        "detr/object-detection",
        settings(DETR),
        PICTURES,
        [dict(threshold=0.0), dict(threshold=0.5)],
    ),
    (
        "object-detection-yolos",
        "object-detection",
        "yolos/object-detection",
        settings(dict(image_processor_type="YolosImageProcessor", size=dict(shortest_edge=32, longest_edge=64))),
        PICTURES,
        [dict(threshold=0.0)],
    ),
    (
        "image-segmentation-detr",
        "image-segmentation",
        "detr/segmentation",
        settings(DETR | dict(size=dict(shortest_edge=96, longest_edge=160))),
        PICTURES,
        [
            dict(threshold=0.2, mask_threshold=0.2),
            dict(threshold=0.2, mask_threshold=0.3, overlap_mask_area_threshold=0.1),
            dict(subtask="instance", threshold=0.5, mask_threshold=0.25),
            dict(subtask="semantic"),
            {},
        ],
    ),
    (
        "image-segmentation-segformer",
        "image-segmentation",
        "segformer/semantic-segmentation",
        settings(square("SegformerImageProcessor", 32)),
        PICTURES,
        [{}],
    ),
    (
        "zero-shot-image-classification",
        "zero-shot-image-classification",
        "clip/model",
        settings(CLIP, **words(59)),
        PICTURES,
        [LABELS, LABELS | dict(hypothesis_template="a {}")],
    ),
    (
        "audio-classification",
        "audio-classification",
        "wav2vec2/sequence-classification",
        settings(WAVES),
        SOUNDS,
        [{}, dict(top_k=1), dict(function_to_apply="sigmoid")],
    ),
    (
        "audio-classification-ast",
        "audio-classification",
        "audio-spectrogram-transformer/audio-classification",
        settings(AST),
        SOUNDS,
        [{}],
    ),
    (
        "automatic-speech-recognition-ctc",
        "automatic-speech-recognition",
        "wav2vec2/ctc",
        settings(WAVES, **{"vocab.json": CTC, "tokenizer_config.json": dict(tokenizer_class="Wav2Vec2CTCTokenizer")}),
        SOUNDS[:1],
        [
            {},
            dict(return_timestamps="word"),
            dict(chunk_length_s=0.4),
            dict(chunk_length_s=0.4, stride_length_s=[0.1, 0.05], return_timestamps="char"),
        ],
    ),
    (
        "zero-shot-audio-classification",
        "zero-shot-audio-classification",
        "clap/model",
        settings(CLAP, **words(2)),
        SOUNDS,
        [LABELS, LABELS | dict(hypothesis_template="{} of rain")],
    ),
]


def runs(mask: Image.Image) -> list[int]:
    """The lengths of runs of pixels, row by row; the first is outside."""
    inside = np.array(mask).ravel() > 0
    borders = np.flatnonzero(np.diff(np.concatenate([[False], inside, [not inside[-1]]]).astype(np.int8)))
    return np.diff(np.concatenate([[0], borders])).tolist()


def plain(result):
    """A result as JSON."""
    if isinstance(result, Image.Image):
        return runs(result)
    if isinstance(result, dict):
        return {key: plain(value) for key, value in result.items()}
    if isinstance(result, (list, tuple)):
        return [plain(value) for value in result]
    return result.item() if isinstance(result, np.generic) else result


def read(data: Path, task: str, name: str):
    """An input as the pipeline takes it, without any library for files of sounds."""
    if "image" in task or "object" in task:
        return Image.open(data / "images/pictures" / name)
    with wave.open(str(data / "audio/sounds" / name)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768
        return samples if "zero-shot" in task else dict(raw=samples, sampling_rate=file.getframerate())


def record(out: Path) -> None:
    """Writes a file for each entry of the table."""
    target = out / "media"
    target.mkdir(parents=True, exist_ok=True)
    for name, task, case, files, inputs, calls in GOLDENS:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            synth.write_checkpoint(json.loads((MODELS / case / "weights.json").read_text()), folder)
            shutil.copy(MODELS / case / "config.json", folder)
            for file, content in files.items():
                (folder / file).write_text(json.dumps(content))
            pipeline = transformers.pipeline(task, model=str(folder), device="cpu", dtype="float32")
            recorded = []
            for arguments in calls:
                results = [plain(pipeline(read(out, task, file), **arguments)) for file in inputs]
                recorded.append(dict(arguments=arguments, outputs=results))
        golden = dict(task=task, case=case, files=files, inputs=inputs, calls=recorded)
        (target / f"{name}.json").write_text(json.dumps(golden) + "\n")
        print(f"media/{name}: {len(calls)} calls, {(target / f'{name}.json').stat().st_size / 1024:.0f} KiB", flush=True)
