"""Records tests/data/{tokenizers,pipelines,embed,chat,audio,images,media} with Python's transformers.

    python goldens.py --out DIR [SECTION ...]        sections: tokenizers, pipelines, embed, chat, audio, images,
                                                       media (default: all)

Everything comes from the texts in goldens_text.py and the weights of synth.py, to the same bytes in every run on one
machine. Run it twice: first with the packages of requirements.txt, then with transformers 4.57.6, which still has the
question-answering pipeline and builds some tokenizers differently. The second run only adds to the folders of the
first. Version 4 needs `transformers==4.57.6 tokenizers==0.22.1 huggingface-hub==0.36.0 requests`; everything else may
be shared with the first environment.
"""

import argparse
import importlib.metadata
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The tokenizers package panics on some of the inputs that are recorded as errors.
os.environ["RUST_BACKTRACE"] = "0"
warnings.filterwarnings("ignore")

SECTIONS = ("tokenizers", "pipelines", "embed", "chat", "audio", "images", "media")
OLDER = "4.57.6"


def pinned(package: str) -> str:
    """The version of a package in requirements.txt."""
    for line in (Path(__file__).parent / "requirements.txt").read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line.removeprefix(f"{package}==").strip()
    raise SystemExit(f"requirements.txt pins no {package}")


def main() -> int:
    parser = argparse.ArgumentParser(description="record tokenizer, pipeline and embedding goldens")
    parser.add_argument("--out", type=Path, required=True, help="the folder tests/data")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    args = parser.parse_args()
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    installed, current = importlib.metadata.version("transformers"), pinned("transformers")
    if installed not in (current, OLDER):
        parser.error(f"transformers {installed} is installed, goldens are recorded with {current} and {OLDER}")

    import torch
    import transformers

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.logging.disable_progress_bar()
    for section in args.sections or SECTIONS:
        if section == "tokenizers":
            import goldens_tokenizers

            goldens_tokenizers.older(args.out) if installed == OLDER else goldens_tokenizers.record(args.out)
        elif section == "pipelines":
            import goldens_pipelines

            goldens_pipelines.older(args.out) if installed == OLDER else goldens_pipelines.record(args.out)
        elif section == "embed" and installed == current:
            import goldens_embed

            goldens_embed.record(args.out)
        elif section == "chat" and installed == current:
            import goldens_chat

            goldens_chat.record(args.out)
        elif section == "audio" and installed == current:
            import goldens_audio

            goldens_audio.record(args.out)
        elif section == "images" and installed == current:
            import goldens_images

            goldens_images.record(args.out)
        elif section == "media" and installed == current:
            import goldens_media

            goldens_media.record(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
