"""Writes a checkpoint of LLaMA as GGUF, in the dtype that it has, with token ids in place of a vocabulary.

    python export_gguf.py MODEL OUT
"""

import argparse
import json
import os
from pathlib import Path

import gguf
import torch
from safetensors import safe_open

# The names of a layer's tensors here and there.
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Those of the others; without a head of its own, the embedding is the head.
MODEL = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}

TYPES = {
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


def gguf_name(name: str) -> str:
    module = name.removesuffix(".weight")
    if module in MODEL:
        return f"{MODEL[module]}.weight"
    layer, module = module.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{LAYER[module]}.weight"


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in the order in which llama.cpp rotates them: pairs side by side, not half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description="write a checkpoint of LLaMA as GGUF")
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, help="the file to write")
    args = parser.parse_args()
    config = json.loads((args.model / "config.json").read_text())
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    # Written beside its place and moved as a whole: an export that was broken off is not taken for one.
    partial = args.out.with_name(args.out.name + ".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    with safe_open(args.model / "model.safetensors", framework="pt") as file:
        names = sorted(file.keys())
        matrices, file_type = TYPES[file.get_tensor("model.embed_tokens.weight").dtype]
        writer.add_file_type(file_type)
        writer.add_vocab_size(config["vocab_size"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
        writer.add_rope_freq_base(config["rope_theta"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_tokenizer_model("none")
        for name in names:
            tensor = file.get_tensor(name)
            module = name.split(".")[-2]
            if module in heads:
                tensor = interleaved(tensor, heads[module])
            # llama.cpp multiplies by the weights of norms in f32 only.
            dtype = matrices if tensor.dim() == 2 else gguf.GGMLQuantizationType.F32
            if dtype == gguf.GGMLQuantizationType.F32:
                tensor = tensor.float()
            # Of bf16, which numpy does not have, the bytes.
            bytes_of_rows = tensor.contiguous().view(torch.uint8).numpy()
            writer.add_tensor(gguf_name(name), bytes_of_rows, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(partial, args.out)


if __name__ == "__main__":
    main()
