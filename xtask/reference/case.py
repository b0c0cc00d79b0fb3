"""What describes a case: a class, a configuration and inputs. The tables are in `cases/`."""

from dataclasses import dataclass, field

import numpy as np

import synth

# In `Case.file`: the key is taken out of config.json.
REMOVED = object()


@dataclass(frozen=True)
class Inputs:
    """The arguments of `forward`, made from a few numbers."""

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

    def build(self, key: str, vocab_size: int) -> dict[str, np.ndarray]:
        """The arrays for one case; `key` seeds the token ids."""
        lengths = np.array(self.lengths)
        width = int(lengths.max())
        column = np.arange(width)
        # Position of each cell within its text, and whether it is text at all.
        offset = np.broadcast_to(column, (*lengths.shape, width))
        if self.left:
            offset = offset - (width - lengths[..., None])
        text = (offset >= 0) & (offset < lengths[..., None])

        random = (synth.random_u64(f"{key}/input_ids", text.size) >> np.uint64(40)).astype(np.int64)
        # Ids 0 to 4 are special tokens in one family or another, padding among them.
        ids = (5 + random % (vocab_size - 5)).reshape(text.shape)
        arrays = {"input_ids": np.where(text, ids, self.pad_token_id)}
        if self.mask:
            arrays["attention_mask"] = text.astype(np.int64)
        if self.types:
            segment = offset * self.types // lengths[..., None]
            arrays["token_type_ids"] = np.where(text, segment, 0)
        if self.positions:
            arrays["position_ids"] = np.broadcast_to((3 * column + 2) % (width + 4), text.shape).astype(np.int64)
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class Case:
    """One recorded case."""

    name: str
    # HF's class name.
    model_class: str
    # Keyword arguments of HF's config class.
    config: dict
    inputs: Inputs = field(default_factory=Inputs)
    # Keys to set in, or take out of, the config.json that HF writes: older spellings and what the Hub's files hold.
    file: dict = field(default_factory=dict)
    # config.json without the keys that equal the class's defaults, as many files on the Hub are.
    sparse: bool = False
    # Dtype of the stored weights.
    dtype: str = "f32"
    # HF's attention; only eager gives attention maps.
    attention: str = "eager"
    # Standard deviations by a part of the tensor's name, before the usual ones.
    stds: dict = field(default_factory=dict)


# Embeddings this small let the first LayerNorm's epsilon show in the outputs: 1e-5 in place of 1e-12 moves them by 1e-3
# and more, where with larger ones it would be lost in the tolerance.
SMALL_EMBEDDINGS = {"embeddings.weight": 0.02}
