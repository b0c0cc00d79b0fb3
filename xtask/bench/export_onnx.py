"""Writes a checkpoint as ONNX: OUT/f32.onnx; and OUT/int8.onnx with its weights quantized, of a model of text.

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

TEXT = ("input_ids", torch.full((2, 16), 5), (0, 1))
PICTURES = ("pixel_values", torch.zeros(2, 3, 224, 224), (0,))
WAVEFORM = ("input_values", torch.zeros(1, 160_000), (1,))

# For each class what it takes, an example of that with the axes that may have another length, and what it gives.
CLASSES = {
    "BertModel": (TEXT, ["last_hidden_state", "pooler_output"]),
    "ResNetForImageClassification": (PICTURES, ["logits"]),
    "ViTForImageClassification": (PICTURES, ["logits"]),
    "Wav2Vec2ForCTC": (WAVEFORM, ["logits"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="write a checkpoint as ONNX, in f32 and in int8")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="a folder that is not there yet")
    args = parser.parse_args()
    # Written beside its place and moved as a whole: an export that was broken off is not taken for one.
    partial = args.out.with_name(args.out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    [architecture] = transformers.AutoConfig.from_pretrained(args.model).architectures
    (name, example, axes), outputs = CLASSES[architecture]
    model_class = getattr(transformers, architecture)
    # Attention in plain operations gives the smaller graph: the export of the fused one guards against rows without
    # any key. More of ONNX Runtime's fusions find their patterns in this exporter's graphs than in the older one's.
    model = model_class.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    torch.onnx.export(
        model,
        kwargs={name: example},
        f=partial / "f32.onnx",
        input_names=[name],
        output_names=outputs,
        dynamic_shapes={name: {axis: torch.export.Dim.DYNAMIC for axis in axes}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    files = ["f32.onnx"]
    if name == "input_ids":
        quantize_dynamic(partial / "f32.onnx", partial / "int8.onnx", weight_type=QuantType.QInt8)
        files.append("int8.onnx")
    for file in files:
        onnx.checker.check_model(str(partial / file))
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
