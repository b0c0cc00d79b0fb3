"""Weights that files hold packed: recipes for their parts, and Python's functions that dequantize them."""

import math

import torch

# Rows and columns that share a scale in FP8: `weight_block_size` of the cases.
BLOCK = (8, 16)


def mxfp4(name: str, shape: list[int], std: float) -> dict:
    """Numbers of four bits, all equally frequent, with an exponent for each 32: their standard deviation is 2.85."""
    experts, columns, rows = shape
    if columns % 32:
        raise ValueError(f"{name}: {columns} is not a multiple of 32")
    groups = [experts, rows, columns // 32]
    return {
        f"{name}_blocks": {"shape": [*groups, 16], "mean": 127.5, "std": 74.0, "dtype": "u8"},
        f"{name}_scales": {"shape": groups, "mean": round(127 + math.log2(std / 2.85), 1), "std": 0.8, "dtype": "u8"},
    }


def fp8(name: str, shape: list[int], std: float, exponents: bool) -> dict:
    """Floats of eight bits with a scale for each block, the last ones smaller.

    Each scale is a power of two, so that a product has no more bits than bf16: different ones as bytes, or one as f32.
    """
    power = round(math.log2(std / 60))
    scales = {"shape": [math.ceil(size / block) for size, block in zip(shape, BLOCK, strict=True)]}
    scales |= {"mean": 127.0 + power, "std": 0.8, "dtype": "u8"} if exponents else {"mean": 2.0**power, "std": 0.0}
    return {
        name: {"shape": shape, "mean": 0.0, "std": 60.0, "dtype": "f8_e4m3"},
        f"{name}_scale_inv": scales,
    }


def pack(weights: dict, kinds: dict) -> dict:
    """A weights.json with the parts of what is packed."""
    packed = {}
    for name, spec in weights.items():
        kind = next((kind for part, kind in kinds.items() if part in name), None)
        # Vectors and biases never are.
        if kind is None or len(spec["shape"]) < 2 or name.endswith("bias"):
            packed[name] = spec
        elif kind == "mxfp4":
            packed |= mxfp4(name, spec["shape"], spec["std"])
        else:
            packed |= fp8(name, spec["shape"], spec["std"], kind == "fp8-exponents")
    return packed


def unpack(tensors: dict) -> dict:
    """Tensors as f32 that are packed in others."""
    # Older versions, which record other cases, have neither.
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    plain = dict(tensors)
    for name in tensors:
        if name.endswith("_blocks"):
            base = name.removesuffix("_blocks")
            blocks, scales = plain.pop(name), plain.pop(f"{base}_scales")
            plain[base] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        elif name.endswith("_scale_inv"):
            base = name.removesuffix("_scale_inv")
            numbers, scales = plain[base], plain.pop(name)
            # HF's function wants whole blocks: those at the ends are filled up, and cut off again.
            rows, columns = numbers.shape
            whole = torch.zeros([scales.shape[0] * BLOCK[0], scales.shape[1] * BLOCK[1]])
            whole[:rows, :columns] = numbers.float()
            whole = whole.to(numbers.dtype)
            whole = Fp8Dequantize(None)._dequantize_one(whole, scales, output_dtype=torch.float32)
            plain[base] = whole[:rows, :columns].contiguous()
    return plain
