"""What the workers of `cargo xtask bench` share: the protocol, and the inputs.

A worker loads its model, says `{"name": ...}`, and answers requests, one JSON document per line of stdin and stdout:

    {"run": n, "warm": bool}    n repetitions, after an untimed one if warm     -> {"seconds": [...]}
    {"output": path}            one repetition, its numbers as f32 to a file    -> {"values": count}
    {"quit": true}              the end                                         -> {"peak_bytes": bytes or null}
"""

import json
import math
import os
import sys
import time

# Whatever a library prints goes to stderr: stdout is for answers.
_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)

# Height and width of a picture, in pixels.
PICTURE = 224

_FACTOR, _TERM = 6364136223846793005, 1442695040888963407
_MASK = (1 << 64) - 1


def token_ids(batch: int, seq: int, vocab_size: int) -> list[list[int]]:
    """The ids that tx gets: a linear congruential generator, whose twin is `Random` in inputs.rs."""
    state, rows = 1, []
    for _ in range(batch):
        row = []
        for _ in range(seq):
            state = (state * _FACTOR + _TERM) & _MASK
            # Ids 0 to 4 are special tokens in one family or another, padding among them.
            row.append(5 + (state >> 33) % (vocab_size - 5))
        rows.append(row)
    return rows


def normal(*shape: int):
    """The numbers that tx gets, around zero and with a deviation of one: `Random::normal` in inputs.rs."""
    import numpy as np

    count = 2 * math.prod(shape)
    # All states at once, by the powers of the factor and the sums of these, which wrap around silently.
    powers = np.full(count, _FACTOR, dtype=np.uint64).cumprod()
    sums = np.concatenate([np.ones(1, dtype=np.uint64), powers[:-1]]).cumsum()
    states = powers + sums * np.uint64(_TERM)
    unit = ((states >> np.uint64(33)).astype(np.float64) + 0.5) / 2**31
    radius, angle = np.sqrt(-2 * np.log(unit[::2])), 2 * np.pi * unit[1::2]
    return (radius * np.cos(angle)).astype(np.float32).reshape(shape)


def pictures(batch: int, channels: int):
    return normal(batch, channels, PICTURE, PICTURE)


def add_media(parser) -> None:
    """What the workers for pictures and sounds are told: what to compute, and of how much. Their twin is `Media` in
    media.rs."""
    works = parser.add_subparsers(dest="work", required=True)

    def add(work: str, help: str, **sizes: str) -> None:
        added = works.add_parser(work, help=help)
        for name, meaning in sizes.items():
            added.add_argument(f"--{name}", type=int, required=True, help=meaning)

    add("classify", "the scores of a picture's labels", batch="pictures")
    add("compare", "how well a picture and texts fit", texts="texts", seq="tokens of each text")
    add("encode", "a spectrogram to what a decoder needs of it")
    add("decode", "tokens of what was heard, one by one", prompt="tokens before them", steps="tokens")
    add("ctc", "the scores of tokens at every frame of a waveform", samples="samples of the waveform")


def add_generation(parser) -> None:
    """What the workers for language models are told: a prompt for every row, and how many single tokens follow it. A
    repetition is those tokens, with the prompt in the cache; or the prompt itself if there are none."""
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--prompt", type=int, required=True, help="tokens of each prompt")
    parser.add_argument("--steps", type=int, required=True, help="tokens that follow it, one by one")


def peak_bytes() -> int | None:
    """The most memory that was resident. `ru_maxrss` would count what the starting process had, too."""
    try:
        with open("/proc/self/status", encoding="utf-8") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _answer(document: dict) -> None:
    _answers.write(json.dumps(document) + "\n")
    _answers.flush()


def serve(name: str, work) -> None:
    """Answers requests until the end; `work()` is one repetition, and returns an array."""
    import numpy as np

    _answer({"name": name})
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            if request["warm"]:
                work()
            seconds = []
            for _ in range(request["run"]):
                start = time.perf_counter()
                work()
                seconds.append(time.perf_counter() - start)
            _answer({"seconds": seconds})
        elif "output" in request:
            values = np.ascontiguousarray(work(), dtype="<f4")
            values.tofile(request["output"])
            _answer({"values": values.size})
        else:
            _answer({"peak_bytes": peak_bytes()})
            return
