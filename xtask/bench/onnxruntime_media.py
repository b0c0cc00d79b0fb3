"""The worker for pictures and waveforms with ONNX Runtime: what export_onnx.py wrote."""

import argparse
import json
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import onnxruntime
from onnxruntime_forward import session


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the checkpoint")
    parser.add_argument("--onnx", type=Path, required=True, help="the folder that export_onnx.py wrote")
    worker.add_media(parser)
    args = parser.parse_args()
    model = session(args.onnx / "f32.onnx", args.threads)
    if args.work == "classify":
        config = json.loads((args.model / "config.json").read_text())
        inputs = {"pixel_values": worker.pictures(args.batch, config["num_channels"])}
    else:
        inputs = {"input_values": worker.normal(1, args.samples)}
    worker.serve(f"onnxruntime {onnxruntime.__version__} f32", lambda: model.run(None, inputs)[0])


if __name__ == "__main__":
    main()
