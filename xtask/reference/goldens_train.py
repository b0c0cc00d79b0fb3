"""Trains the small tokenizers of the goldens on CORPUS, always to the same bytes.

Merges are learned here and not by the tokenizers package, whose vocabulary depends on the order of a hash map.
"""

import io
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, normalizers, pre_tokenizers

from goldens_text import CORPUS

def words(normalizer, pre_tokenizer) -> Counter:
    """How often each pre-token occurs in CORPUS."""
    counts = Counter()
    for line in CORPUS:
        text = normalizer.normalize_str(line) if normalizer else line
        counts.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    return counts


def join(left: str, right: str, prefix: str) -> str:
    """The symbol that two neighbours merge into."""
    return left + right.removeprefix(prefix)


def learn_merges(counts: Counter, prefix: str, limit: int, suffix: str = "") -> list[tuple[str, str]]:
    """The `limit` most frequent merges; of equally frequent ones the first in alphabetical order."""
    split = {word: [word[0], *(prefix + letter for letter in word[1:])] for word in counts}
    for symbols in split.values():
        symbols[-1] += suffix
    merges = []
    while len(merges) < limit:
        pairs = Counter()
        for word, symbols in split.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        merges.append(best)
        for word, symbols in split.items():
            place = 0
            while place + 1 < len(symbols):
                if (symbols[place], symbols[place + 1]) == best:
                    symbols[place : place + 2] = [join(*best, prefix)]
                place += 1
    return merges


def wordpiece(lowercase: bool, first: list[str], last: list[str], limit: int = 600) -> list[str]:
    """A `vocab.txt`: the special tokens `first`, letters, merged pieces, and `last`."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    counts = words(normalizer, pre_tokenizers.BertPreTokenizer())
    letters = Counter()
    for word, count in counts.items():
        letters[word[0]] += count
        letters.update({"##" + letter: word[1:].count(letter) * count for letter in set(word[1:])})
    # Letters that occur once stay unknown.
    alphabet = sorted(letter for letter, count in letters.items() if count > 1)
    pieces = [join(*merge, "##") for merge in learn_merges(counts, "##", limit)]
    return list(dict.fromkeys(first + alphabet + pieces + last))


def byte_level(first: list[str], last: list[str], limit: int = 500) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`vocab.json` and the merges of `merges.txt`."""
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges = learn_merges(words(None, pre_tokenizer), "", limit)
    tokens = first + sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges] + last
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def clip(last: list[str], limit: int = 500) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """`vocab.json` and the merges of `merges.txt` in the way of CLIP, whose words have an end of their own."""
    end = "</w>"
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    merges = learn_merges(words(normalizer, pre_tokenizer), "", limit, end)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = letters + [letter + end for letter in letters] + [left + right for left, right in merges] + last
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def normalization_rules() -> str:
    """A small part of what sentencepiece's `nmt_nfkc` does, in its format: source, tab, target, in hexadecimal."""
    rules = {}
    for code in (*range(0xC0, 0x250), *range(0x390, 0x3CF), *range(0x400, 0x460), *range(0x1EA0, 0x1EFA)):
        decomposed = unicodedata.normalize("NFD", chr(code))
        if decomposed != chr(code):
            rules[decomposed] = chr(code)
    compatible = [*range(0xA0, 0x100), *range(0x2000, 0x2070), *range(0x2100, 0x2190), *range(0x2460, 0x2474)]
    compatible += [0x3000, 0x3392, *range(0xF900, 0xF920), *range(0xFB00, 0xFB07), *range(0xFE80, 0xFEFD)]
    compatible += [*range(0xFF01, 0xFF5F), *range(0xFF66, 0xFF9E)]
    for code in compatible:
        text = chr(code)
        mapped = unicodedata.normalize("NFKC", text)
        if mapped != text:
            rules[text] = mapped
    for kana in "\uff76\uff77\uff8a":
        for mark in "\uff9e\uff9f":
            rules[kana + mark] = unicodedata.normalize("NFKC", kana + mark)
    spaces = (0x09, 0x0A, 0x0C, 0x0D, 0x1680, 0x200B, 0x200E, 0x200F, 0x2028, 0x2029, 0xFEFF)
    rules |= {chr(code): " " for code in spaces}
    rules |= {chr(code): "" for code in (*range(1, 9), 0x0B, *range(0x0E, 0x20), 0x7F, 0x8F, 0x9F, 0xAD)}
    lines = []
    for pair in sorted(rules.items()):
        lines.append("\t".join(" ".join(f"{ord(letter):X}" for letter in text) for text in pair) + "\n")
    return "".join(lines)


def sentencepiece_model(model_type: str, rules: bool = True, **arguments) -> bytes:
    """A sentencepiece model; `arguments` are those of its trainer."""
    model = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        if rules:
            path = Path(folder) / "rules.tsv"
            path.write_text(normalization_rules())
            arguments["normalization_rule_tsv"] = str(path)
        else:
            arguments["normalization_rule_name"] = "identity"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS),
            model_writer=model,
            model_type=model_type,
            num_threads=1,
            hard_vocab_limit=False,
            minloglevel=2,
            **arguments,
        )
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    # The temporary folder's name.
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto.SerializeToString(deterministic=True)
