"""Records tests/data/generation: what Python's `generate` makes of tiny models, and its processors of scores.

    python generation.py --out DIR [NAME ...]        DIR is tests/data/generation; NAME a model of it, or `processors`

For each model a folder: `config.json`, `weights.json` and `generation_config.json` as a checkpoint has them, and
`expected.json`, a list of calls with prompts, arguments and the sequences that came out, without padding. A call is
tried with one prompt after another, until the result is fit for a test: the arguments it is about change it, every
decision has a clear margin, weights in float64 decide the same, and a batch gives what its rows give alone.

Diverse beams left the package with version 5. A second run, in an environment that has transformers 4.51.3 and the
pinned versions of what that allows, records them alone: as `expected-groups.json` in the folder of a model that the
first run wrote. Weights and config are those of the first.
"""

import argparse
import importlib.metadata
import json
import math
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import numpy as np
import torch
import transformers

import synth
from case import Case
from reference import Failed, describe, exact_softmax, pinned_version

transformers.logging.disable_progress_bar()

OLDER = "4.51.3"
if transformers.__version__ == OLDER:
    from transformers.generation import beam_search
# How many prompts a call is tried with.
ATTEMPTS = 400
# The smallest difference between the two best scores of a greedy step.
MARGIN = 1e-3
# The same between candidates of a beam search, where many are compared with each other.
BEAM_MARGIN = 2e-4

PAD, BOS, EOS = 0, 1, 2
SETTINGS = dict(bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD)


@dataclass(frozen=True)
class Call:
    """One call of `generate`."""

    name: str
    arguments: dict
    # Tokens of each prompt.
    lengths: tuple[int, ...] = (7,)
    # Tokens of the negative prompt; without it guidance takes the prompt's last token.
    negative: int = 0
    # Arguments without which the result has to be another.
    changed: tuple[str, ...] = ()
    # Whether a sequence has to end before its limit.
    ends: bool = False


@dataclass(frozen=True)
class Model:
    """A model and what it is asked for."""

    name: str
    model_class: str
    config: dict
    calls: list[Call]
    # Standard deviations by a part of the tensor's name: scores have to differ clearly.
    stds: dict = field(default_factory=dict)


def greedy(name: str, changed=None, lengths=(7,), ends=False, negative=0, **arguments) -> Call:
    """A greedy call; all of its arguments have to change the result, unless it says which."""
    changed = tuple(arguments) if changed is None else changed
    return Call(name, dict(max_new_tokens=24) | arguments, lengths, negative, changed, ends)


def beams(name: str, changed=(), lengths=(7,), ends=True, **arguments) -> Call:
    """A beam search of which some sequence ends."""
    usual = dict(max_new_tokens=16, num_beams=3, eos_token_id=[2, 9, 17])
    return Call(name, usual | arguments, lengths, 0, changed, ends)


def groups(name: str, changed=(), lengths=(7,), ends=True, **arguments) -> Call:
    """A diverse beam search of which some sequence ends."""
    usual = dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.0)
    return beams(name, changed, lengths, ends, **usual | arguments)


COMMON = [
    greedy("greedy"),
    greedy("greedy-batch", lengths=(9, 4, 1)),
    greedy("greedy-ends", (), (8, 5, 3), True, eos_token_id=[2, 9, 17, 23]),
    greedy("repetition-penalty-batch", lengths=(6, 9), repetition_penalty=1.4),
    beams("beams-2", num_beams=2),
    beams("beams-batch", lengths=(8, 3)),
]

LLAMA = COMMON + [
    greedy("max-length", (), max_new_tokens=None, max_length=19),
    greedy("default-length", (), max_new_tokens=None),
    greedy("one-token-prompt", lengths=(1,)),
    greedy("repetition-penalty", repetition_penalty=1.5),
    greedy("repetition-reward", repetition_penalty=0.8),
    greedy("no-repeat-ngram-1", no_repeat_ngram_size=1),
    greedy("no-repeat-ngram-2", no_repeat_ngram_size=2),
    greedy("no-repeat-ngram-3", no_repeat_ngram_size=3),
    greedy("encoder-repetition-penalty", encoder_repetition_penalty=1.5),
    greedy("encoder-no-repeat-ngram", encoder_no_repeat_ngram_size=2),
    greedy("min-new-tokens", ("min_new_tokens",), min_new_tokens=12, eos_token_id=[2, 9, 17, 23, 31, 40]),
    greedy("min-length", ("min_length",), min_length=15, eos_token_id=[2, 9, 17, 23, 31, 40]),
    greedy("one-eos", ("eos_token_id",), (7, 7, 7), True, eos_token_id=9),
    greedy("forced-eos", forced_eos_token_id=2),
    greedy("forced-bos", lengths=(1,), forced_bos_token_id=11),
    greedy("suppress", suppress_tokens=[5, 9, 13, 17, 21, 25, 29, 33, 37, 41]),
    greedy("begin-suppress", begin_suppress_tokens=list(range(5, 40))),
    greedy(
        "begin-suppress-after-forced",
        ("begin_suppress_tokens",),
        (1,),
        forced_bos_token_id=11,
        begin_suppress_tokens=list(range(5, 40)),
    ),
    greedy("bad-words", bad_words_ids=[[5], [9], [13], [21, 30], [44, 7, 8]]),
    greedy("bad-words-pairs", bad_words_ids=[[a, b] for a in range(5, 25) for b in range(30, 45)]),
    greedy("sequence-bias", sequence_bias=[[[14], 3.0], [[20], -5.0], [[33, 12], 2.5], [[41], 2.0]]),
    greedy("exponential-decay", (), exponential_decay_length_penalty=[6, 1.3], ends=True),
    greedy("guidance", guidance_scale=1.8),
    greedy("guidance-negative", negative=5, guidance_scale=2.5),
    greedy("guidance-below-one", negative=6, guidance_scale=0.5),
    greedy("guidance-and-penalty", negative=4, guidance_scale=1.5, repetition_penalty=1.3),
    greedy("many", no_repeat_ngram_size=3, repetition_penalty=1.2, bad_words_ids=[[6], [12]], suppress_tokens=[50, 51]),
    beams("beams-3"),
    beams("beams-4", num_beams=4),
    beams("beams-no-eos", eos_token_id=2, ends=False),
    beams("beams-length-penalty-negative", ("length_penalty",), length_penalty=-1.0),
    beams("beams-length-penalty-half", ("length_penalty",), length_penalty=0.5),
    beams("beams-length-penalty-two", ("length_penalty",), length_penalty=2.0),
    beams("beams-length-penalty-zero", ("length_penalty",), length_penalty=0.0),
    beams("beams-stop-early", ("early_stopping",), early_stopping=True),
    beams("beams-stop-never", ("early_stopping",), early_stopping="never", length_penalty=2.0),
    beams("beams-stop-never-negative", early_stopping="never", length_penalty=-1.0),
    beams("beams-stop-early-batch", ("early_stopping",), (8, 5, 2), early_stopping=True, num_beams=4),
    beams("beams-ngram", ("no_repeat_ngram_size",), no_repeat_ngram_size=2, num_beams=4),
    beams("beams-repetition-penalty", ("repetition_penalty",), repetition_penalty=1.3),
    beams("beams-one-eos", eos_token_id=9, num_beams=4),
    beams("beams-two-eos", eos_token_id=[9, 30], num_beams=2),
    beams("beams-many-eos", eos_token_id=[2, 9, 17, 23, 31, 40], num_beams=4),
    beams("beams-all", num_return_sequences=4, num_beams=4),
    beams("beams-two-of-three", lengths=(7, 4), num_return_sequences=2),
    beams("beams-min-new-tokens", ("min_new_tokens",), min_new_tokens=10),
    beams("beams-forced-eos", ("forced_eos_token_id",), forced_eos_token_id=2, eos_token_id=2, ends=False),
    beams("beams-renormalized", renormalize_logits=True, no_repeat_ngram_size=2),
    beams("beams-suppress", ("suppress_tokens",), suppress_tokens=[5, 9, 13, 21, 25, 29, 33, 37, 41]),
    beams("beams-one-token", max_new_tokens=1, ends=False),
]

GROUPS = [
    groups("groups"),
    groups("groups-of-one", num_beams=3, num_beam_groups=3, diversity_penalty=0.8, num_return_sequences=3),
    groups("groups-batch", lengths=(8, 3), diversity_penalty=0.5, num_return_sequences=4),
    groups("groups-batch-of-three", lengths=(7, 4, 2), num_beams=6, num_beam_groups=2, num_return_sequences=2),
    groups("groups-small-penalty", num_beams=6, num_beam_groups=3, diversity_penalty=0.1, num_return_sequences=6),
    groups("groups-large-penalty", num_beams=6, num_beam_groups=3, diversity_penalty=20.0, num_return_sequences=6),
    groups("groups-stop-early", ("early_stopping",), early_stopping=True),
    groups("groups-stop-early-batch", (), (8, 5), early_stopping=True, num_return_sequences=2),
    groups("groups-stop-never", num_beams=6, num_beam_groups=3, diversity_penalty=2.0, early_stopping="never"),
    groups("groups-stop-never-two", ("early_stopping",), early_stopping="never", length_penalty=2.0),
    groups("groups-stop-never-negative", early_stopping="never", length_penalty=-1.0),
    groups("groups-length-penalty", ("length_penalty",), length_penalty=-1.0),
    groups("groups-length-penalty-zero", ("length_penalty",), length_penalty=0.0, num_return_sequences=4),
    groups("groups-length-penalty-two", ("length_penalty",), length_penalty=2.0, num_return_sequences=4),
    groups("groups-one-eos", eos_token_id=9, num_beams=6, num_beam_groups=2, num_return_sequences=3),
    groups("groups-no-eos", eos_token_id=2, num_return_sequences=4, ends=False),
    groups("groups-one-token", max_new_tokens=1, num_return_sequences=4, ends=False),
    groups("groups-ngram", ("no_repeat_ngram_size",), no_repeat_ngram_size=2),
    # What comes after the penalty for other groups' tokens changes that penalty, what comes before does not.
    groups("groups-repetition-reward", ("repetition_penalty",), repetition_penalty=0.4, num_return_sequences=4),
    groups("groups-renormalized", ("renormalize_logits",), renormalize_logits=True, num_return_sequences=4),
    groups(
        "groups-bias-and-reward",
        ("sequence_bias", "repetition_penalty"),
        sequence_bias=[[[14], 3.0], [[20], -5.0], [[33, 12], 2.5], [[41], 2.0]],
        repetition_penalty=0.4,
        num_return_sequences=4,
    ),
]

SIZES = dict(
    vocab_size=60,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)

MODELS = [
    Model("llama", "LlamaForCausalLM", SIZES, LLAMA, {"lm_head": 0.6}),
    Model(
        "gpt2",
        "GPT2LMHeadModel",
        dict(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=40),
        COMMON + [greedy("one-token-prompt", lengths=(1,)), greedy("no-repeat-ngram-2", no_repeat_ngram_size=2)],
        # Conv1D has its input first, so that the usual deviation is too small.
        {"wte": 0.8, "wpe": 0.4, "c_attn.weight": 0.3, "c_fc.weight": 0.3, "c_proj.weight": 0.3},
    ),
    Model(
        "mistral",
        "MistralForCausalLM",
        SIZES | dict(sliding_window=4),
        COMMON + [beams("beams-4", num_beams=4), greedy("no-repeat-ngram-2", no_repeat_ngram_size=2)],
        {"lm_head": 0.6},
    ),
    Model(
        "mamba",
        "MambaForCausalLM",
        dict(vocab_size=60, hidden_size=32, state_size=8, num_hidden_layers=2, conv_kernel=4, expand=2),
        COMMON + [greedy("one-token-prompt", lengths=(1,)), beams("beams-4", num_beams=4)],
    ),
    # Sequences that outgrow the length from which on rotations are others. Rows are of one length: Python counts padding
    # when it drops its cache, and does not when it rotates.
    Model(
        "phi3",
        "Phi3ForCausalLM",
        SIZES
        | dict(
            original_max_position_embeddings=16,
            rope_parameters=dict(
                rope_type="longrope",
                rope_theta=1000.0,
                short_factor=[1.0, 1.1, 1.25, 1.5],
                long_factor=[1.5, 3.0, 5.5, 8.0],
                original_max_position_embeddings=16,
            ),
        ),
        [
            greedy("greedy", ()),
            greedy("greedy-batch", (), lengths=(9, 9, 9)),
            greedy("greedy-short", (), max_new_tokens=9),
            greedy("greedy-to-the-length", (), lengths=(16,)),
            greedy("greedy-long", (), lengths=(20,)),
            greedy("greedy-ends", (), (8, 8, 8), True, eos_token_id=[2, 9, 17, 23]),
            beams("beams-4", num_beams=4),
            beams("beams-batch", lengths=(8, 8)),
        ],
        {"lm_head": 0.6},
    ),
]


def ids(key: str, count: int, vocab_size: int) -> list[int]:
    """Token ids without the special ones."""
    random = synth.random_u64(f"generation/{key}", count) >> np.uint64(40)
    return [5 + int(value) % (vocab_size - 5) for value in random]


class Margins:
    """The smallest difference that decided anything in a beam search."""

    def __init__(self, model: torch.nn.Module):
        self.model = model
        self.smallest = math.inf
        self.names = ("_get_top_k_continuations", "_update_finished_beams", "_check_early_stop_heuristic")

    def __enter__(self):
        for name in self.names:
            if hasattr(type(self.model), name):
                original = getattr(self.model, name)
                # An attribute of the instance hides the method of the class.
                object.__setattr__(self.model, name, self.watch(name, original))
        return self

    def __exit__(self, *_):
        for name in self.names:
            self.model.__dict__.pop(name, None)

    def neighbours(self, values: torch.Tensor) -> None:
        """Takes rows of scores in any order; those of beams that do not count are very low."""
        for row in values.sort(dim=-1, descending=True).values:
            row = row[row > -1e8]
            if len(row) > 1:
                self.smallest = min(self.smallest, float((row[:-1] - row[1:]).min()))

    def watch(self, name: str, original):
        def watched(**arguments):
            result = original(**arguments)
            if name == "_get_top_k_continuations":
                scores = arguments["accumulated_log_probs"]
                self.neighbours(torch.topk(scores, min(arguments["beams_to_keep"] + 1, scores.shape[-1])).values)
            elif name == "_update_finished_beams":
                self.neighbours(result[1])
            else:
                never = arguments["early_stopping"] == "never" and arguments["length_penalty"] > 0
                length = arguments["max_length"] if never else arguments["cur_len"]
                length -= arguments["decoder_prompt_len"]
                best = arguments["running_beam_scores"][:, 0] / length ** arguments["length_penalty"]
                gaps = (best - arguments["beam_scores"].min(dim=1).values).abs()
                full = arguments["is_sent_finished"].all(dim=1)
                if full.any():
                    self.smallest = min(self.smallest, float(gaps[full].min()))
            return result

        return watched


class GroupMargins(Margins):
    """The same in a diverse beam search, in which other classes decide."""

    def __enter__(self):
        scorer, hypotheses = beam_search.BeamSearchScorer, beam_search.BeamHypotheses
        watched = [(scorer, "process"), (scorer, "finalize"), (hypotheses, "add"), (hypotheses, "is_done")]
        self.originals = [(owner, name, getattr(owner, name)) for owner, name in watched]
        for owner, name, original in self.originals:
            setattr(owner, name, self.watch(name, original))
        return self

    def __exit__(self, *_):
        for owner, name, original in self.originals:
            setattr(owner, name, original)

    def apart(self, a: float, b: float) -> None:
        # The best continuation may be the hypothesis itself, computed in the same way.
        if a != b:
            self.smallest = min(self.smallest, abs(a - b))

    def watch(self, name: str, original):
        def process(scorer, input_ids, next_scores, *more, group_index, **rest):
            # What a group that is done still computes counts for nothing.
            running = [not scorer._done[i] for i in range(group_index, len(scorer._done), scorer.num_beam_groups)]
            self.neighbours(next_scores[running])
            return original(scorer, input_ids, next_scores, *more, group_index=group_index, **rest)

        def finalize(scorer, *more, **rest):
            result = original(scorer, *more, **rest)
            scores = [beam[0] for hypotheses in scorer._beam_hyps for beam in hypotheses.beams]
            self.neighbours(torch.tensor(scores).view(-1, scorer.num_beams))
            return result

        def add(hypotheses, hyp, sum_logprobs, beam_indices=None, generated_len=None):
            if len(hypotheses) == hypotheses.num_beams:
                self.apart(sum_logprobs / generated_len**hypotheses.length_penalty, hypotheses.worst_score)
            original(hypotheses, hyp, sum_logprobs, beam_indices, generated_len)

        def is_done(hypotheses, best_sum_logprobs, cur_len, decoder_prompt_len):
            if len(hypotheses) == hypotheses.num_beams and hypotheses.early_stopping is not True:
                never = hypotheses.early_stopping == "never" and hypotheses.length_penalty > 0
                length = (hypotheses.max_length if never else cur_len) - decoder_prompt_len
                self.apart(best_sum_logprobs / length**hypotheses.length_penalty, hypotheses.worst_score)
            return original(hypotheses, best_sum_logprobs, cur_len, decoder_prompt_len)

        return dict(process=process, finalize=finalize, add=add, is_done=is_done)[name]


def eos_of(arguments: dict) -> list[int]:
    eos = arguments.get("eos_token_id", EOS)
    return eos if isinstance(eos, list) else [eos]


@dataclass
class Result:
    """What came out of a call."""

    # Prompt and continuation up to the token that ends it, without padding.
    sequences: list[list[int]]
    # Of beams.
    scores: list[float] | None
    # Of the tokens of a greedy continuation, from the scores as the model gave them.
    logprobs: list[list[float]] | None
    margin: float


def generate(model: torch.nn.Module, prompts: list[list[int]], negative: list[int], arguments: dict) -> Result:
    """Calls `generate` with the prompts padded on the left."""
    width = max(map(len, prompts))
    input_ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    more = dict(negative_prompt_ids=torch.tensor([negative])) if negative else {}
    given = {name: value for name, value in arguments.items() if value is not None}
    diverse = arguments.get("num_beam_groups", 1) > 1
    # A diverse search computes scores in float32, and cannot keep those of another dtype.
    keep = not diverse or model.dtype == torch.float32
    with torch.no_grad(), (GroupMargins if diverse else Margins)(model) as margins:
        output = model.generate(
            input_ids,
            attention_mask=mask,
            return_dict_in_generate=True,
            output_scores=keep,
            output_logits=True,
            **given,
            **more,
        )
    each = arguments.get("num_return_sequences", 1)
    eos = eos_of(arguments)
    sequences = []
    for index, row in enumerate(output.sequences.tolist()):
        new = row[width:]
        end = next((i + 1 for i, token in enumerate(new) if token in eos), len(new))
        sequences.append(prompts[index // each] + new[:end])
    if arguments.get("num_beams", 1) > 1:
        return Result(sequences, output.sequences_scores.tolist() if keep else None, None, margins.smallest)
    margin, logprobs = math.inf, []
    for index, (prompt, sequence) in enumerate(zip(prompts, sequences)):
        logprobs.append([])
        for step, token in enumerate(sequence[len(prompt) :]):
            best = torch.topk(output.scores[step][index].double(), 2).values
            margin = min(margin, float(best[0] - best[1]))
            logprobs[-1].append(float(torch.log_softmax(output.logits[step][index].double(), -1)[token]))
    guided = arguments.get("guidance_scale") is not None
    return Result(sequences, None, None if guided else logprobs, margin)


class Unfit(Exception):
    """A prompt whose result shows nothing, or shows it too narrowly."""


def attempt(model: torch.nn.Module, exact: torch.nn.Module, call: Call, key: str, vocab_size: int) -> dict:
    """One call with the prompts of a key."""
    prompts = [ids(f"{key}/{row}", length, vocab_size) for row, length in enumerate(call.lengths)]
    negative = ids(f"{key}/negative", call.negative, vocab_size)
    result = generate(model, prompts, negative, call.arguments)
    limit = BEAM_MARGIN if result.scores else MARGIN
    if not result.margin > limit:
        raise Unfit(f"a margin of {result.margin:.1e}")
    if call.ends and not any(sequence[-1] in eos_of(call.arguments) for sequence in result.sequences):
        raise Unfit("no sequence ends")
    if call.ends and len(prompts) > 1 and len({len(sequence) for sequence in result.sequences}) < 2:
        raise Unfit("all sequences end at once")
    for name in call.changed:
        if name not in call.arguments:
            continue
        others = {other: value for other, value in call.arguments.items() if other != name}
        if generate(model, prompts, negative, others).sequences == result.sequences:
            raise Unfit(f"`{name}` changes nothing")
    with exact_softmax():
        precise = generate(exact, prompts, negative, call.arguments).sequences
    if precise != result.sequences:
        raise Unfit("float64 gives other tokens")
    each = call.arguments.get("num_return_sequences", 1)
    if len(prompts) > 1:
        for row, prompt in enumerate(prompts):
            alone = generate(model, [prompt], negative, call.arguments)
            if alone.sequences != result.sequences[row * each : (row + 1) * each]:
                raise Unfit(f"row {row} alone gives other tokens")
    entry = dict(name=call.name, prompts=prompts)
    if negative:
        entry["negative_prompts"] = [negative]
    entry["arguments"] = {name: value for name, value in call.arguments.items() if value is not None}
    entry["sequences"] = result.sequences
    if result.scores is not None:
        entry["scores"] = result.scores
    if result.logprobs is not None:
        entry["logprobs"] = result.logprobs
    return entry


def find(model: torch.nn.Module, exact: torch.nn.Module, call: Call, subject: Model) -> tuple[int, dict]:
    """The first prompts whose result is fit for a test, with their number."""
    reasons = []
    for number in range(ATTEMPTS):
        try:
            return number, attempt(
                model, exact, call, f"{subject.name}/{call.name}/{number}", subject.config["vocab_size"]
            )
        except Unfit as reason:
            # Without the figures, so that they can be counted.
            reasons.append(str(reason).split(" of ")[0])
    counts = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    raise Failed(f"no prompt of {ATTEMPTS} is fit: {counts}")


def load(model_class: type, folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The model of a folder, by either version's keyword for the dtype."""
    older = transformers.__version__ == OLDER
    model = model_class.from_pretrained(
        folder, attn_implementation="eager", **{"torch_dtype" if older else "dtype": dtype}
    )
    return model.eval()


def record(subject: Model, out: Path, groups: bool) -> tuple[int, int]:
    """Writes one folder. Returns how many calls were recorded and how many could not be."""
    model_class = getattr(transformers, subject.model_class)
    case = Case(subject.name, subject.model_class, subject.config, stds=subject.stds)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built = model_class(model_class.config_class(**subject.config, **SETTINGS))
        # HF writes what differs from its own idea of a generation config; this one is written by hand.
        built.save_pretrained(folder)
        settings = json.dumps(SETTINGS, indent=2, sort_keys=True) + "\n"
        (folder / "generation_config.json").write_text(settings)
        weights = describe(case, folder)
        synth.write_checkpoint(weights, folder)
        config = (folder / "config.json").read_text()
        model, exact = load(model_class, folder, torch.float32), load(model_class, folder, torch.float64)
    entries, failures = [], 0
    for call in GROUPS if groups else subject.calls:
        try:
            number, entry = find(model, exact, call, subject)
        except Exception as failure:
            failures += 1
            print(f"{subject.name}/{call.name}: FAILED: {type(failure).__name__}: {failure}", file=sys.stderr)
            continue
        entries.append(entry)
        print(f"{subject.name}/{call.name}: prompt {number}", flush=True)
    target = out / subject.name
    target.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    if groups:
        (target / "expected-groups.json").write_text(f"[\n{lines}\n]\n")
        return len(entries), failures
    (target / "expected.json").write_text(f"[\n{lines}\n]\n")
    (target / "config.json").write_text(config if config.endswith("\n") else config + "\n")
    (target / "generation_config.json").write_text(settings)
    tensors = [f"  {json.dumps(name)}: {json.dumps(spec)}" for name, spec in weights.items()]
    (target / "weights.json").write_text("{\n" + ",\n".join(tensors) + "\n}\n")
    return len(entries), failures


VOCABULARY = 50
# Tokens of the prompt, and of the whole sequence; six new ones are the limit, so that the second row is at the last.
ROWS = [(4, 4), (4, 9), (6, 8)]
SAMPLING = dict(do_sample=True, top_k=0)

PROCESSORS = [
    (dict(sequence_bias=[[[7], 2.5], [[3], -1.5], [[4, 9], -4.0], [[5, 6, 11], 30.0]]), ROWS),
    (dict(encoder_repetition_penalty=1.4), ROWS),
    (dict(repetition_penalty=1.3), ROWS),
    (dict(repetition_penalty=0.7), ROWS),
    (dict(no_repeat_ngram_size=1), ROWS),
    (dict(no_repeat_ngram_size=2), [(4, 24), (12, 30)]),
    (dict(no_repeat_ngram_size=3), [(4, 40), (12, 60)]),
    (dict(no_repeat_ngram_size=9), [(4, 5)]),
    (dict(encoder_no_repeat_ngram_size=2), [(20, 24), (30, 30)]),
    (dict(bad_words_ids=[[5], [4, 6], [8, 3, 5], [7]]), [(4, 9), (5, 30), (6, 31), (6, 32)]),
    (dict(min_length=8), ROWS),
    (dict(min_new_tokens=3), ROWS),
    (dict(forced_bos_token_id=11), [(1, 1), (1, 2)]),
    (dict(forced_eos_token_id=2), ROWS),
    (dict(forced_eos_token_id=[2, 7]), ROWS),
    (dict(remove_invalid_values=True), ROWS),
    (dict(exponential_decay_length_penalty=[2, 1.4]), ROWS),
    (dict(suppress_tokens=[3, 8, 21]), ROWS),
    (dict(begin_suppress_tokens=[3, 8, 21]), ROWS),
    (dict(begin_suppress_tokens=[3, 8, 21], forced_bos_token_id=11), [(1, 1), (1, 2), (2, 2)]),
    (SAMPLING | dict(temperature=0.6), ROWS),
    (SAMPLING | dict(temperature=1.7), ROWS),
    (SAMPLING | dict(top_h=0.4), ROWS),
    (SAMPLING | dict(top_h=0.9), ROWS),
    (SAMPLING | dict(top_k=1), ROWS),
    (SAMPLING | dict(top_k=7), ROWS),
    (SAMPLING | dict(top_k=70), ROWS),
    (SAMPLING | dict(top_p=0.2), ROWS),
    (SAMPLING | dict(top_p=0.9), ROWS),
    (SAMPLING | dict(top_p=1e-6), ROWS),
    (SAMPLING | dict(min_p=0.1), ROWS),
    (SAMPLING | dict(typical_p=0.3), ROWS),
    (SAMPLING | dict(typical_p=0.9), ROWS),
    (SAMPLING | dict(epsilon_cutoff=0.01), ROWS),
    (SAMPLING | dict(epsilon_cutoff=0.9), ROWS),
    (SAMPLING | dict(eta_cutoff=0.02), ROWS),
    (SAMPLING | dict(top_k=1, num_beams=3), ROWS),
    (SAMPLING | dict(top_p=0.1, num_beams=3), ROWS),
    (dict(renormalize_logits=True), ROWS),
    (dict(watermarking_config=dict(greenlist_ratio=0.25, bias=2.0, seeding_scheme="lefthash")), ROWS),
    (dict(watermarking_config=dict(greenlist_ratio=0.5, bias=3.0, seeding_scheme="selfhash", context_width=2)), ROWS),
    (
        dict(
            do_sample=True,
            temperature=0.7,
            top_k=20,
            top_p=0.9,
            min_p=0.02,
            repetition_penalty=1.3,
            renormalize_logits=True,
        ),
        ROWS,
    ),
    (
        dict(
            repetition_penalty=1.2,
            no_repeat_ngram_size=2,
            bad_words_ids=[[5, 6]],
            min_new_tokens=4,
            suppress_tokens=[9],
        ),
        ROWS,
    ),
]


SYNTHID = [
    dict(watermarking_config=watermark)
    for watermark in [
        dict(ngram_len=5, keys=[654, 400, 836, 123, 340, 443, 597, 160, 57]),
        dict(ngram_len=3, keys=[654, 400, 836], context_history_size=2),
        dict(ngram_len=2, keys=[1], context_history_size=0, sampling_table_size=1),
        dict(ngram_len=3, keys=[17, 4], skip_first_ngram_calls=True, sampling_table_size=1009, sampling_table_seed=42),
        dict(ngram_len=1, keys=[7, 8], sampling_table_seed=2**64 - 1),
        dict(ngram_len=4, keys=[2**63 - 1, -(2**63), -1, 0], debug_mode=True, sampling_table_seed=-5),
    ]
]
SYNTHID += [
    SAMPLING | dict(temperature=0.7, top_p=0.8, renormalize_logits=True) | SYNTHID[0],
    SAMPLING | dict(top_k=4) | SYNTHID[1],
]


def numbers(scores: torch.Tensor) -> list:
    """Floats as JSON has them, the others by name."""
    return [value if math.isfinite(value) else str(value) for value in scores.tolist()]


def processors(
    model: torch.nn.Module, config: dict, input_ids: torch.Tensor, prompt: int
) -> transformers.LogitsProcessorList:
    """The processors that `generate` would make from a config."""
    watermark = config.get("watermarking_config", {})
    if "ngram_len" in watermark:
        # Python takes a map for green lists.
        config = config | dict(watermarking_config=transformers.SynthIDTextWatermarkingConfig(**watermark))
    settings = transformers.GenerationConfig(**config)
    settings.update(**settings._get_default_generation_params(), defaults_only=True)
    model._prepare_special_tokens(settings, device="cpu")
    settings.max_length = prompt + config["max_new_tokens"]
    if config.get("min_new_tokens") is not None:
        settings.min_length = prompt + config["min_new_tokens"]
    return model._get_logits_processor(
        generation_config=settings,
        input_ids_seq_length=prompt,
        encoder_input_ids=input_ids[:, :prompt],
        device="cpu",
        model_kwargs={},
    )


def process(model: torch.nn.Module, config: dict, tokens: list[int], prompt: int, scores: torch.Tensor) -> torch.Tensor:
    """What the processors of a config make of scores."""
    input_ids = torch.tensor([tokens])
    return processors(model, config, input_ids, prompt)(input_ids, scores.clone()[None])[0]


def record_synthid(model: torch.nn.Module) -> list[dict]:
    """SynthID's marks in a batch, step by step: Python's processor remembers the tokens of each row."""
    entries = []
    prompt, steps, vocabulary = 3, 6, 20
    for number, config in enumerate(SYNTHID):
        config = dict(eos_token_id=[2, 7], pad_token_id=PAD, max_new_tokens=steps) | config
        # Few distinct tokens, so that contexts are repeated.
        rows = [[3 + token % 2 for token in ids(f"synthid/{number}/{row}", prompt + steps, 50)] for row in range(2)]
        input_ids = torch.tensor(rows)
        change = processors(model, config, input_ids, prompt)
        for length in range(prompt, prompt + steps):
            # Close to each other: what every round makes less probable loses bits in each.
            values = synth.values(f"synthid/{number}/{length}/scores", [2, vocabulary], 0.0, 1.0)
            scores = torch.from_numpy(values)
            found = change(input_ids[:, :length], scores.clone())
            for row, tokens in enumerate(rows):
                entry = dict(config=config, ids=tokens[:length], prompt=prompt)
                entries.append(entry | dict(scores=numbers(scores[row]), expected=numbers(found[row])))
    return entries


def record_processors(out: Path) -> None:
    """Writes processors.json: what every processor makes of seeded scores."""
    sizes = SIZES | dict(vocab_size=VOCABULARY, num_hidden_layers=1)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **SETTINGS))
    entries = []
    for number, (config, rows) in enumerate(PROCESSORS):
        config = dict(eos_token_id=[2, 7], pad_token_id=PAD, max_new_tokens=6) | config
        for row, (prompt, length) in enumerate(rows):
            key = f"processors/{number}/{row}"
            # Few distinct tokens, so that they repeat.
            tokens = [3 + token % 7 for token in ids(f"{key}/ids", length, VOCABULARY)]
            scores = torch.from_numpy(synth.values(f"{key}/scores", [VOCABULARY], 0.0, 2.5))
            if row == 1 and not {"top_p", "top_h"} & config.keys():
                # Scores that are equal show which of them a processor keeps; these two keep any, as they sort.
                scores = (scores * 2).round() / 2
            if "remove_invalid_values" in config:
                scores[[3, 9, 12]] = torch.tensor([math.nan, math.inf, -math.inf])
            found = process(model, config, tokens, prompt, scores)
            entry = dict(config=config, ids=tokens, prompt=prompt, scores=numbers(scores), expected=numbers(found))
            entries.append(entry)
    entries += record_synthid(model)
    lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
    out.mkdir(parents=True, exist_ok=True)
    (out / "processors.json").write_text(f"[\n{lines}\n]\n")
    print(f"processors: {len(entries)} rows")


def main() -> int:
    parser = argparse.ArgumentParser(description="record what Python generates")
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data/generation")
    names = [subject.name for subject in MODELS] + ["processors"]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)} (default: all)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in names]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(names)}")
    installed = importlib.metadata.version("transformers")
    if installed not in (pinned_version(), OLDER):
        parser.error(f"transformers {installed} is installed, calls are recorded with {pinned_version()} and {OLDER}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    groups = installed == OLDER

    count, failures = 0, 0
    for subject in MODELS:
        # Diverse beams differ in the search alone, which one model shows.
        if args.names and subject.name not in args.names or groups and subject.name != "llama":
            continue
        try:
            recorded, failed = record(subject, args.out, groups)
        except Failed as failure:
            recorded, failed = 0, 1
            print(f"{subject.name}: FAILED: {failure}", file=sys.stderr)
        count, failures = count + recorded, failures + failed
    if not groups and (not args.names or "processors" in args.names):
        record_processors(args.out)
    print(f"{count} calls, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
