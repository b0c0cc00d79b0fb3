"""Writes a checkpoint as ONNX: OUT/f32.onnx, and OUT/int8.onnx with its weights quantized.

    python export_onnx.py MODEL OUT
"""

import argparse
import os
import shutil
from pathlib import Path

import onnx
import torch
import transformers
from onnxruntime.quantization import QuantType, quantize_dynamic


def main() -> None:
    parser = argparse.ArgumentParser(description="write a checkpoint as ONNX, in f32 and in int8")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    args = parser.parse_args()
    # Written beside its place and moved as a whole: an export that was broken off is not taken for one.
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    # Attention in plain operations gives the smaller graph: the export of the fused one guards against rows without
    # any key. More of ONNX Runtime's fusions find their patterns in this exporter's graphs than in the older one's.
    model = transformers.BertModel.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    dynamic = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        model,
        kwargs={"input_ids": torch.full((2, 16), 5)},
        f=partial / "f32.onnx",
        input_names=["input_ids"],
        output_names=["last_hidden_state", "pooler_output"],
        dynamic_shapes={"input_ids": {0: dynamic, 1: dynamic}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    quantize_dynamic(partial / "f32.onnx", partial / "int8.onnx", weight_type=QuantType.QInt8)
    for file in ("f32.onnx", "int8.onnx"):
        onnx.checker.check_model(str(partial / file))
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
