"""The worker for forward passes with ONNX Runtime: what export_onnx.py wrote, in f32 or dynamically quantized."""

import argparse
import json
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import numpy as np
import onnxruntime


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True, help="the folder of the checkpoint")
    parser.add_argument("--onnx", type=Path, required=True, help="the folder that export_onnx.py wrote")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seq", type=int, required=True)
    parser.add_argument("--int8", action="store_true")
    args = parser.parse_args()
    dtype = "int8" if args.int8 else "f32"
    model = session(args.onnx / f"{dtype}.onnx", args.threads)
    vocab_size = json.loads((args.model / "config.json").read_text())["vocab_size"]
    inputs = {"input_ids": np.array(worker.token_ids(args.batch, args.seq, vocab_size), dtype=np.int64)}
    worker.serve(f"onnxruntime {onnxruntime.__version__} {dtype}", lambda: model.run(None, inputs)[0])


if __name__ == "__main__":
    main()
