"""tests/data/chat: what Python's `apply_chat_template` makes of conversations.

Each folder has a `chat_template.jinja` in the published form of one family, or a collection of what templates use, and
`cases.json` with conversations and arguments, both written by hand. This adds `expected.json`: for every case the text,
and the assistant's parts where they are asked for, or the error. The clock stands still.
"""

import json
from datetime import datetime
from pathlib import Path

from jinja2.exceptions import TemplateError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from goldens_tokenizers import write_compact

# tests/tests/chat.rs has the same.
NOW = (2026, 3, 14, 15, 9, 26)
MASK = "return_assistant_tokens_mask"


class StoppedClock(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW)


def render(tokenizer, case: dict) -> dict:
    """The text of one case."""
    messages, options = case["messages"], case["options"]
    if not options.get(MASK):
        return {"text": tokenizer.apply_chat_template(messages, tokenize=False, **options)}
    # The parts in characters, which `apply_chat_template` would turn into tokens.
    texts, parts = chat_template_utils.render_jinja_template(
        conversations=[messages],
        chat_template=tokenizer.get_chat_template(tools=options.get("tools")),
        **tokenizer.special_tokens_map | options,
    )
    return {"text": texts[0], "assistant": parts[0]}


def expected(folder: Path) -> list[dict]:
    """What Python makes of the cases of one folder."""
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")),
        chat_template=(folder / "chat_template.jinja").read_text(encoding="utf-8"),
        **cases["special_tokens"],
    )
    assert tokenizer.special_tokens_map == cases["special_tokens"], tokenizer.special_tokens_map
    results = []
    for case in cases["cases"]:
        try:
            result = render(tokenizer, case)
        except TemplateError as error:
            # The words of `raise_exception` are passed on; those of the engine are its own.
            result = {"error": "template"} | ({"raised": str(error)} if type(error) is TemplateError else {})
        except ValueError as error:
            result = {"error": "input", "said": str(error).splitlines()[0]}
        results.append({"name": case["name"]} | result)
    return results


def record(out: Path) -> None:
    """Writes `expected.json` into every folder of `chat` in `out`."""
    real, chat_template_utils.datetime = chat_template_utils.datetime, StoppedClock
    try:
        for folder in sorted(path.parent for path in (out / "chat").glob("*/cases.json")):
            results = expected(folder)
            write_compact(folder / "expected.json", results)
            print(f"chat/{folder.name}: {len(results)} cases", flush=True)
    finally:
        chat_template_utils.datetime = real
