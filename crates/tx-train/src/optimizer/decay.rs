//! Which parameters lose weight: HF's `get_decay_parameter_names`.

/// Parts of names, in lower case, of parameters that keep their weight.
const KEPT: [&str; 3] = ["bias", "layernorm", "rmsnorm"];

/// Whether the parameter of this name decays, which is a field of a layer of this type. Those of norms do not, nor does
/// anything whose name has `bias` in it.
pub(super) fn decays(name: &str, layer: &str) -> bool {
    let name = name.to_lowercase();
    let of_norm = name.split('.').any(|segment| segment == "norm" || segment.ends_with("_norm"));
    layer != "LayerNorm" && !of_norm && KEPT.iter().all(|part| !name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_and_norms_keep_their_weight() {
        for (name, layer) in [
            ("bert.encoder.layer.0.output.LayerNorm.weight", "LayerNorm"),
            ("bert.encoder.layer.0.output.dense.bias", "Linear"),
            ("model.layers.0.input_layernorm.weight", "RmsNorm"),
            ("model.layers.0.self_attn.q_norm.weight", "RmsNorm"),
            ("model.norm.weight", "RmsNorm"),
            ("transformer.h.0.ln_1.weight", "LayerNorm"),
            ("beit.encoder.layer.0.attention.attention.relative_position_bias_table", "RelativePositionBias"),
        ] {
            assert!(!decays(name, layer), "{name}");
        }
        for (name, layer) in [
            ("model.layers.0.self_attn.q_proj.weight", "Linear"),
            ("transformer.wte.weight", "Embedding"),
            ("resnet.embedder.embedder.normalization.weight", "BatchNorm2d"),
            ("norms.weight", "Linear"),
        ] {
            assert!(decays(name, layer), "{name}");
        }
    }
}
