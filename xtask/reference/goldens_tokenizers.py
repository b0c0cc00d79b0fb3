"""tests/data/tokenizers: small tokenizers in the file layouts of the Hub, and what Python makes of them.

Each folder holds a tokenizer as old repositories have it, that is without tokenizer.json, and `golden.json`. Those
named `...-json` hold a tokenizer that `save_pretrained` wrote. Where version 4 gives other ids, types or offsets,
`golden_v4.json` has them. Offsets count characters and are flattened: start, end, start, end.
"""

import json
import shutil
from pathlib import Path

import transformers
from transformers import AutoTokenizer

import goldens_train as train
from goldens_text import PAIRS, SAMPLE

LONG = 100_000
SPECIAL = ("unk", "pad", "cls", "sep", "mask", "bos", "eos")


def write_json(path: Path, content) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def write_compact(path: Path, content) -> None:
    path.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def added(content: str, **flags) -> dict:
    """A special token as tokenizer_config.json has it since version 4."""
    flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False} | flags
    return {"__type": "AddedToken", "content": content} | flags


def write_vocab_txt(folder: Path, tokens: list[str]) -> None:
    (folder / "vocab.txt").write_text("".join(token + "\n" for token in tokens))


def write_byte_level(folder: Path, vocab: dict[str, int], merges: list[tuple[str, str]]) -> None:
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = [f"{left} {right}\n" for left, right in merges]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(lines))


class Layout:
    """The folders, each written by one function of the vocabulary files it needs."""

    def __init__(self):
        bert = ["[PAD]", "[unused0]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        mpnet = ["<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        roberta = ["<s>", "<pad>", "</s>", "<unk>"]
        self.uncased = train.wordpiece(True, bert, [])
        self.cased = train.wordpiece(False, bert, [])
        self.mpnet = train.wordpiece(True, mpnet, ["<mask>"])
        self.roberta = train.byte_level(roberta, ["<mask>"])
        self.gpt2 = train.byte_level([], ["<|endoftext|>"])
        self.clip = train.clip(["<|startoftext|>", "<|endoftext|>"])
        unigram = {"model_type": "unigram", "vocab_size": 900, "character_coverage": 0.985}
        self.fairseq = train.sentencepiece_model(**unigram)
        self.albert = train.sentencepiece_model(
            **unigram,
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            control_symbols="[CLS],[SEP],[MASK]",
            user_defined_symbols=["(", ")", '"', "-", ".", "\u2013", "\u00a3", "\u20ac"],
        )
        self.deberta = train.sentencepiece_model(
            **unigram,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
        )
        self.t5 = train.sentencepiece_model(**unigram, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
        self.llama = train.sentencepiece_model(
            model_type="bpe",
            rules=False,
            vocab_size=900,
            character_coverage=0.98,
            byte_fallback=True,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
        )

    def write(self, name: str, folder: Path) -> None:
        model_type, files, config = self.folders()[name]
        write_json(folder / "config.json", {"model_type": model_type})
        for file, content in files.items():
            if file == "vocab.txt":
                write_vocab_txt(folder, content)
            elif file == "vocab.json":
                write_byte_level(folder, *content)
            elif isinstance(content, bytes):
                (folder / file).write_bytes(content)
            else:
                write_json(folder / file, content)
        if config is not None:
            write_json(folder / "tokenizer_config.json", config)

    def folders(self) -> dict[str, tuple[str, dict, dict | None]]:
        """Folder: model type, vocabulary files, tokenizer_config.json (`None`: no such file)."""
        uncased = {"do_lower_case": True, "model_max_length": 512}
        cased = {"do_lower_case": False, "model_max_length": 512}
        named = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]"}
        sentinels = [f"<extra_id_{index}>" for index in range(100)]
        llama = {
            "add_bos_token": True,
            "add_eos_token": False,
            "bos_token": added("<s>"),
            "clean_up_tokenization_spaces": False,
            "eos_token": added("</s>"),
            "legacy": False,
            "model_max_length": 1000000000000000019884624838656,
            "pad_token": None,
            "padding_side": "right",
            "sp_model_kwargs": {},
            "tokenizer_class": "LlamaTokenizer",
            "unk_token": added("<unk>"),
        }
        return {
            "bert-uncased": ("bert", {"vocab.txt": self.uncased}, uncased),
            "bert-uncased-accents": ("bert", {"vocab.txt": self.uncased}, uncased | {"strip_accents": False}),
            "bert-cased": ("bert", {"vocab.txt": self.cased}, cased),
            "bert-cased-strip": (
                "bert",
                {"vocab.txt": self.cased},
                cased | {"strip_accents": True, "tokenize_chinese_chars": False},
            ),
            # No tokenizer_config.json: the class's defaults.
            "bert-bare": ("bert", {"vocab.txt": self.uncased}, None),
            # Tokens added by the user, the way they were saved before version 4.34.
            "bert-added": (
                "bert",
                {
                    "vocab.txt": self.uncased,
                    "added_tokens.json": {"[ENT]": len(self.uncased), "Paris": len(self.uncased) + 1},
                    "special_tokens_map.json": named
                    | {"mask_token": "[MASK]", "additional_special_tokens": ["[ENT]"]},
                },
                uncased | {"tokenizer_class": "BertTokenizer"},
            ),
            "distilbert": ("distilbert", {"vocab.txt": self.uncased}, uncased),
            "electra": ("electra", {"vocab.txt": self.uncased}, uncased),
            "mpnet": (
                "mpnet",
                {"vocab.txt": self.mpnet},
                {
                    "do_lower_case": True,
                    "bos_token": "<s>",
                    "eos_token": "</s>",
                    "sep_token": "</s>",
                    "cls_token": "<s>",
                    "unk_token": "[UNK]",
                    "pad_token": "<pad>",
                    "mask_token": "<mask>",
                    "tokenize_chinese_chars": True,
                    "strip_accents": None,
                    "model_max_length": 512,
                    "tokenizer_class": "MPNetTokenizer",
                },
            ),
            "roberta": ("roberta", {"vocab.json": self.roberta}, {"model_max_length": 512}),
            "roberta-prefix": (
                "roberta",
                {"vocab.json": self.roberta},
                {"add_prefix_space": True, "model_max_length": 512},
            ),
            "gpt2": ("gpt2", {"vocab.json": self.gpt2}, {"model_max_length": 1024}),
            # As openai/clip-vit-base-patch32 has it.
            "clip": (
                "clip",
                {"vocab.json": self.clip},
                {
                    "add_prefix_space": False,
                    "bos_token": added("<|startoftext|>"),
                    "do_lower_case": True,
                    "eos_token": added("<|endoftext|>"),
                    "errors": "replace",
                    "model_max_length": 77,
                    "pad_token": "<|endoftext|>",
                    "tokenizer_class": "CLIPTokenizer",
                    "unk_token": added("<|endoftext|>"),
                },
            ),
            "xlm-roberta": ("xlm-roberta", {"sentencepiece.bpe.model": self.fairseq}, {"model_max_length": 512}),
            "camembert": ("camembert", {"sentencepiece.bpe.model": self.fairseq}, {"model_max_length": 512}),
            "albert": ("albert", {"spiece.model": self.albert}, {"model_max_length": 512}),
            "albert-cased": (
                "albert",
                {"spiece.model": self.albert},
                {"do_lower_case": False, "keep_accents": True, "model_max_length": 512},
            ),
            "deberta-v2": ("deberta-v2", {"spm.model": self.deberta}, {"do_lower_case": False, "vocab_type": "spm"}),
            "deberta-v2-lower": (
                "deberta-v2",
                {"spm.model": self.deberta},
                {"do_lower_case": True, "split_by_punct": True, "vocab_type": "spm", "model_max_length": 512},
            ),
            "t5": (
                "t5",
                {"spiece.model": self.t5},
                {
                    "additional_special_tokens": sentinels,
                    "eos_token": "</s>",
                    "extra_ids": 100,
                    "model_max_length": 512,
                    "pad_token": "<pad>",
                    "unk_token": "<unk>",
                },
            ),
            "llama": ("llama", {"tokenizer.model": self.llama}, llama),
            # The first LLaMA: no word on "legacy".
            "llama-legacy": (
                "llama",
                {"tokenizer.model": self.llama},
                {key: value for key, value in llama.items() if key != "legacy"} | {"model_max_length": 2048},
            ),
            # No word on the class either.
            "llama-bare": ("llama", {"tokenizer.model": self.llama}, {"bos_token": "<s>", "eos_token": "</s>"}),
        }


# Folders with tokenizer.json: the folder that Python converts, and the tokenizer_config.json in place of Python's.
CONVERTED = {
    "bert-uncased-json": ("bert-uncased", None),
    # Python lets the class's arguments overrule the normalizer of tokenizer.json.
    "bert-override-json": ("bert-uncased", {"do_lower_case": False, "tokenizer_class": "BertTokenizer"}),
    "roberta-json": ("roberta", None),
    # As on the Hub: <mask> takes the space before it.
    "roberta-hub-json": ("roberta", {"model_max_length": 512}),
    "gpt2-json": ("gpt2", None),
    "clip-json": ("clip", None),
    "xlm-roberta-json": ("xlm-roberta", None),
    "llama-json": ("llama", None),
}


def convert(source: Path, folder: Path, config: dict | None) -> None:
    """Writes `folder` as save_pretrained does, tokenizer.json without indentation."""
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    shutil.copyfile(source / "config.json", folder / "config.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    if folder.name == "roberta-hub-json":
        [mask] = [token for token in content["added_tokens"] if token["content"] == "<mask>"]
        mask["lstrip"] = True
    write_compact(folder / "tokenizer.json", content)
    if config is None:
        config = json.loads((folder / "tokenizer_config.json").read_text())
        # How this machine loaded it.
        for key in ("is_local", "local_files_only", "name_or_path"):
            config.pop(key, None)
    write_json(folder / "tokenizer_config.json", config)


def flat(offsets: list) -> list[int]:
    return [place for pair in offsets for place in pair]


def encode(tokenizer, text, pair=None, **arguments) -> dict:
    """One text or pair; `token_type_ids` are those of the encoding, whether or not the model takes them."""
    output = tokenizer(
        text,
        pair,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        return_offsets_mapping=True,
        return_attention_mask=False,
        **arguments,
    )
    record = {
        "input_ids": output["input_ids"],
        "offsets": flat(output["offset_mapping"]),
        "token_type_ids": output["token_type_ids"],
        "special_tokens_mask": output["special_tokens_mask"],
    }
    if arguments.get("is_split_into_words"):
        record["word_ids"] = output.word_ids()
    return record


# Places in SAMPLE for the batches: short, medium, one that is longer than any max_length below, empty.
SHORT = [1, 2, 10, 38]
MEDIUM = [0, 1, 4]

# Arguments of the tokenizer's call, texts, second texts. `truncation_side` is the attribute of that name.
BATCHES = [
    ({"padding": True}, SHORT, None),
    ({"padding": True, "padding_side": "left"}, SHORT, None),
    ({"padding": True, "pad_to_multiple_of": 8}, SHORT, None),
    ({"padding": "max_length", "max_length": 40}, SHORT, None),
    ({"padding": "max_length", "max_length": 12, "truncation": True}, MEDIUM, None),
    ({"padding": "max_length", "max_length": 21, "pad_to_multiple_of": 8}, SHORT, None),
    ({"padding": True, "max_length": 16, "truncation": True, "pad_to_multiple_of": 8}, SHORT, None),
    ({"truncation": True, "max_length": 9}, MEDIUM, None),
    ({"truncation": True, "max_length": 9, "truncation_side": "left"}, MEDIUM, None),
    ({"truncation": True, "max_length": 6, "add_special_tokens": False}, MEDIUM, None),
    ({"truncation": True, "max_length": 2}, MEDIUM, None),
    ({"padding": True}, MEDIUM, [1, 0, 10]),
    ({"truncation": "longest_first", "max_length": 16, "padding": True}, MEDIUM, [1, 0, 10]),
    ({"truncation": "longest_first", "max_length": 15}, MEDIUM, [1, 0, 10]),
    ({"truncation": "longest_first", "max_length": 15, "truncation_side": "left"}, MEDIUM, [1, 0, 10]),
    ({"truncation": "only_first", "max_length": 40, "padding": "max_length"}, [4, 3], [1, 2]),
    ({"truncation": "only_second", "max_length": 40, "padding": "max_length"}, [2, 1], [4, 3]),
    ({"truncation": True, "max_length": 12, "stride": 3, "return_overflowing_tokens": True}, [1, 3], None),
    (
        {"truncation": True, "max_length": 12, "stride": 3, "return_overflowing_tokens": True, "padding": "max_length"},
        [1, 3, 38],
        None,
    ),
    (
        {
            "truncation": True,
            "max_length": 12,
            "stride": 3,
            "return_overflowing_tokens": True,
            "truncation_side": "left",
        },
        [1, 3],
        None,
    ),
    (
        {
            "truncation": "only_second",
            "max_length": 36,
            "stride": 4,
            "return_overflowing_tokens": True,
            "padding": True,
        },
        [2, 2],
        [3, 4],
    ),
    (
        {"truncation": "only_first", "max_length": 36, "stride": 4, "return_overflowing_tokens": True},
        [3, 4],
        [2, 2],
    ),
    ({"truncation": True, "max_length": 20, "stride": 2, "return_overflowing_tokens": True}, [4], [0]),
    # What Python refuses.
    ({"truncation": "only_second", "max_length": 8}, [3], None),
    ({"truncation": "only_first", "max_length": 20}, [2], [3]),
    ({"truncation": True, "max_length": 6, "stride": 6, "return_overflowing_tokens": True}, [3], None),
    ({"truncation": True, "max_length": 20, "padding": True, "pad_to_multiple_of": 8}, SHORT, None),
]


def batch(tokenizer, arguments: dict, texts: list[int], pairs: list[int] | None) -> dict:
    record = {"arguments": arguments, "texts": texts, "pairs": pairs}
    arguments = dict(arguments)
    tokenizer.truncation_side = arguments.pop("truncation_side", "right")
    try:
        output = tokenizer(
            [SAMPLE[place] for place in texts],
            [SAMPLE[place] for place in pairs] if pairs else None,
            return_token_type_ids=True,
            return_attention_mask=True,
            return_special_tokens_mask=True,
            return_offsets_mapping=True,
            **arguments,
        )
    # The tokenizers package raises bare exceptions, and panics where it does not check.
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        return record | {"error": str(error).splitlines()[0]}
    finally:
        tokenizer.truncation_side = "right"
    output = dict(output)
    output["offsets"] = [flat(row) for row in output.pop("offset_mapping")]
    return record | {"output": output}


def fnv(numbers) -> str:
    """FNV-1a, 64 bits, over the numbers as little-endian u32, in hexadecimal."""
    state = 0xCBF29CE484222325
    for number in numbers:
        for byte in int(number).to_bytes(4, "little"):
            state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{state:016x}"


def long_text() -> str:
    """SAMPLE joined by spaces, again and again with a space between, cut at LONG characters."""
    joined = " ".join(SAMPLE)
    return " ".join([joined] * (LONG // len(joined) + 1))[:LONG]


def texts(tokenizer) -> list[dict]:
    """Every text of SAMPLE."""
    items = []
    for text in SAMPLE:
        item = encode(tokenizer, text)
        item["decoded"] = tokenizer.decode(item["input_ids"])
        item["decoded_skip"] = tokenizer.decode(item["input_ids"], skip_special_tokens=True)
        items.append(item)
    return items


def pairs(tokenizer) -> list[dict]:
    """Every pair of PAIRS."""
    items = []
    for first, second in PAIRS:
        item = {"text": first, "pair": second} | encode(tokenizer, SAMPLE[first], SAMPLE[second])
        items.append(item | {"decoded": tokenizer.decode(item["input_ids"])})
    return items


def golden(folder: Path) -> dict:
    """What AutoTokenizer makes of a folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = {name: getattr(tokenizer, f"{name}_token") for name in SPECIAL}
    limit = tokenizer.model_max_length
    record = {
        "transformers": transformers.__version__,
        "class": type(tokenizer).__name__,
        "vocab_size": tokenizer.vocab_size,
        "length": len(tokenizer),
        "special_tokens": {
            name: {"token": token, "id": getattr(tokenizer, f"{name}_token_id")}
            for name, token in tokens.items()
            if token
        },
        "all_special_ids": tokenizer.all_special_ids,
        "added_tokens": {
            str(index): {
                "content": token.content,
                "special": token.special,
                "normalized": token.normalized,
                "lstrip": token.lstrip,
                "rstrip": token.rstrip,
                "single_word": token.single_word,
            }
            for index, token in sorted(tokenizer.added_tokens_decoder.items())
        },
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "pad_token_type_id": tokenizer.pad_token_type_id,
        # Absent limits are 1e30 in Python.
        "model_max_length": limit if limit < 1e18 else None,
        "model_input_names": tokenizer.model_input_names,
        "special_tokens_to_add": [tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)],
        "bare": [],
        "words": [],
        "batches": [],
    }
    record["texts"], record["pairs"] = texts(tokenizer), pairs(tokenizer)
    for place in (0, 38, 41, 50, 51):
        item = {"text": place} | encode(tokenizer, SAMPLE[place], add_special_tokens=False)
        record["bare"].append(item | {"decoded": tokenizer.decode(item["input_ids"])})
    for place in (0, 4, 13, 42):
        words = SAMPLE[place].split(" ")
        try:
            item = encode(tokenizer, words, is_split_into_words=True)
        except (AssertionError, ValueError) as error:
            item = {"error": str(error).splitlines()[0]}
        record["words"].append({"words": words} | item)
    record["batches"] = [batch(tokenizer, *case) for case in BATCHES]
    output = tokenizer(long_text(), return_offsets_mapping=True)
    record["long"] = {
        "characters": LONG,
        "count": len(output["input_ids"]),
        "ids": fnv(output["input_ids"]),
        "offsets": fnv(flat(output["offset_mapping"])),
    }
    return record


def older(out: Path) -> None:
    """Adds `golden_v4.json` where version 4 gives a text or pair other ids, types or offsets."""
    encoded = ("input_ids", "offsets", "token_type_ids")
    for path in sorted((out / "tokenizers").glob("*/golden.json")):
        folder = path.parent
        # Version 4 cannot read its successor's tokenizer_config.json.
        if folder.name in CONVERTED:
            continue
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = {"texts": texts(tokenizer), "pairs": pairs(tokenizer)}
        expected = json.loads(path.read_text())
        changed = [
            f"{part} {place}"
            for part in found
            for place, item in enumerate(found[part])
            if any(item[key] != expected[part][place][key] for key in encoded)
        ]
        if changed:
            write_compact(folder / "golden_v4.json", {"transformers": transformers.__version__} | found)
        print(f"tokenizers/{folder.name}: {len(changed)} differ", flush=True)


def record(out: Path) -> None:
    """Writes the folder `tokenizers` in `out`."""
    root = out / "tokenizers"
    root.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(text) for text in SAMPLE)
    (root / "sample.json").write_text(f"[\n{lines}\n]\n")
    layout = Layout()
    for name in (*layout.folders(), *CONVERTED):
        folder = root / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        if name in CONVERTED:
            source, config = CONVERTED[name]
            convert(root / source, folder, config)
        else:
            layout.write(name, folder)
        write_compact(folder / "golden.json", golden(folder))
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"tokenizers/{name}: {size / 1024:.0f} KiB", flush=True)
