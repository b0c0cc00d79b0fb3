"""What describes a case: a class, a configuration and inputs. The tables are in `cases/`."""

import math
from dataclasses import dataclass, field

import numpy as np

import synth

# In `Case.file`: the key is taken out of config.json.
REMOVED = object()


def bits(key: str, shape: tuple) -> np.ndarray:
    """Ones and zeros, each about half of the time."""
    return (synth.random_u64(key, math.prod(shape)) >> np.uint64(63)).astype(np.int64).reshape(shape)


def signal(key: str, shape: tuple) -> np.ndarray:
    """What a picture or a sound is after it was normalised: mean zero, standard deviation one."""
    return synth.values(key, list(shape), 0.0, 1.0)


@dataclass(frozen=True)
class Inputs:
    """Text: the arguments of `forward`, made from a few numbers."""

    # Tokens per row that are not padding; for multiple choice one list per example. The longest sets the width.
    lengths: list = field(default_factory=lambda: [11, 7])
    # Padding before the tokens instead of after them.
    left: bool = False
    # How many values token_type_ids takes; 0 leaves the argument out.
    types: int = 0
    # False leaves attention_mask out: padding then counts as text.
    mask: bool = True
    # Gives position_ids, in an order that no default has.
    positions: bool = False
    pad_token_id: int = 0
    # The last token of each text.
    last: int | None = None
    # What the arguments' names begin with.
    prefix: str = ""

    def build(self, key: str, config: dict) -> dict[str, np.ndarray]:
        """The arrays for one case; `key` seeds the token ids."""
        vocab_size = (config if "vocab_size" in config else config["text_config"])["vocab_size"]
        lengths = np.array(self.lengths)
        width = int(lengths.max())
        column = np.arange(width)
        # Position of each cell within its text, and whether it is text at all.
        offset = np.broadcast_to(column, (*lengths.shape, width))
        if self.left:
            offset = offset - (width - lengths[..., None])
        text = (offset >= 0) & (offset < lengths[..., None])

        random = (synth.random_u64(f"{key}/{self.prefix}input_ids", text.size) >> np.uint64(40)).astype(np.int64)
        # Ids 0 to 4 are special tokens in one family or another, padding among them.
        ids = (5 + random % (vocab_size - 5)).reshape(text.shape)
        if self.last is not None:
            ids = np.where(offset == lengths[..., None] - 1, self.last, ids)
        arrays = {"input_ids": np.where(text, ids, self.pad_token_id)}
        if self.mask:
            arrays["attention_mask"] = text.astype(np.int64)
        if self.types:
            segment = offset * self.types // lengths[..., None]
            arrays["token_type_ids"] = np.where(text, segment, 0)
        if self.positions:
            arrays["position_ids"] = np.broadcast_to((3 * column + 2) % (width + 4), text.shape).astype(np.int64)
        return {f"{self.prefix}{name}": np.ascontiguousarray(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class Pixels:
    """Pictures: `pixel_values` of shape `[batch, channels, height, width]`."""

    height: int
    width: int
    batch: int = 2
    channels: int = 3
    # Height and width of each picture, of which the rest is padding; gives pixel_mask.
    sizes: list = field(default_factory=list)
    # How many patches bool_masked_pos covers; 0 leaves the argument out.
    masked: int = 0

    def build(self, key: str, _config: dict) -> dict[str, np.ndarray]:
        """The arrays for one case."""
        pixels = signal(f"{key}/pixel_values", (self.batch, self.channels, self.height, self.width))
        arrays = {"pixel_values": pixels}
        if self.sizes:
            mask = np.zeros((self.batch, self.height, self.width), np.int64)
            for picture, (height, width) in zip(mask, self.sizes, strict=True):
                picture[:height, :width] = 1
            arrays["pixel_values"] = pixels * mask[:, None].astype(np.float32)
            arrays["pixel_mask"] = mask
        if self.masked:
            arrays["bool_masked_pos"] = bits(f"{key}/bool_masked_pos", (self.batch, self.masked)).astype(bool)
        return arrays


@dataclass(frozen=True)
class Wave:
    """Sounds: `input_values` of shape `[batch, samples]`, zeros behind the shorter ones."""

    # Samples of each sound.
    lengths: list
    # False leaves attention_mask out: the zeros then count as sound.
    mask: bool = True

    def build(self, key: str, _config: dict) -> dict[str, np.ndarray]:
        """The arrays for one case."""
        lengths = np.array(self.lengths)[:, None]
        sound = np.arange(lengths.max()) < lengths
        values = signal(f"{key}/input_values", sound.shape)
        arrays = {"input_values": np.where(sound, values, np.float32(0.0))}
        if self.mask:
            arrays["attention_mask"] = sound.astype(np.int64)
        return arrays


@dataclass(frozen=True)
class Spectrogram:
    """Sounds as the energy of bands of frequencies over time, in whatever order of axes the model takes."""

    shape: tuple
    name: str = "input_features"
    # For each sound whether it was longer than what the features show; gives is_longer.
    longer: list = field(default_factory=list)

    def build(self, key: str, _config: dict) -> dict[str, np.ndarray]:
        """The arrays for one case."""
        arrays = {self.name: signal(f"{key}/{self.name}", self.shape)}
        if self.longer:
            arrays["is_longer"] = np.array(self.longer, bool)[:, None]
        return arrays


@dataclass(frozen=True)
class Together:
    """Several kinds of input for one model."""

    parts: tuple

    def build(self, key: str, config: dict) -> dict[str, np.ndarray]:
        """The arrays for one case."""
        return {name: array for part in self.parts for name, array in part.build(key, config).items()}


@dataclass(frozen=True)
class Case:
    """One recorded case."""

    name: str
    # HF's class name.
    model_class: str
    # Keyword arguments of HF's config class.
    config: dict
    inputs: Inputs | Pixels | Wave | Spectrogram | Together = field(default_factory=Inputs)
    # Arguments of `forward` that are settings, not inputs.
    arguments: dict = field(default_factory=dict)
    # Keys to set in, or take out of, the config.json that HF writes: older spellings and what the Hub's files hold.
    file: dict = field(default_factory=dict)
    # config.json without the keys that equal the class's defaults, as many files on the Hub are.
    sparse: bool = False
    # Parts of the tensors' names, as regular expressions, that the Hub's files spell differently than HF writes them.
    names: dict = field(default_factory=dict)
    # Dtype of the stored weights.
    dtype: str = "f32"
    # Parts of the names of tensors that the file holds packed, and how: see `packed.py`.
    packed: dict = field(default_factory=dict)
    # HF's attention; only eager gives attention maps.
    attention: str = "eager"
    # Standard deviations by a part of the tensor's name, before the usual ones; pairs have the mean before it.
    stds: dict = field(default_factory=dict)
    # A package that transformers needs for this case and requirements.txt leaves out.
    needs: str = ""
    # Whether hidden states and attention maps are recorded. They are most of a file.
    layers: bool = True


# Embeddings this small let the first LayerNorm's epsilon show in the outputs: 1e-5 in place of 1e-12 moves them by 1e-3
# and more, where with larger ones it would be lost in the tolerance.
SMALL_EMBEDDINGS = {"embeddings.weight": 0.02}
