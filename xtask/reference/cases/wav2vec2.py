"""Wav2Vec2."""

from case import REMOVED, Case, Wave

CONFIG = dict(
    vocab_size=12,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=[8, 10, 12],
    conv_stride=[5, 2, 2],
    conv_kernel=[10, 3, 2],
    num_conv_pos_embeddings=6,
    num_conv_pos_embedding_groups=2,
    classifier_proj_size=10,
)
# The two families: one norm in the convolutions and norms after the blocks, or norms everywhere and before the blocks.
LARGE = CONFIG | dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
LABELS = dict(num_labels=3)
# Layers that join six of the 19 frames, some of which the second leaves out. The shorter sound has 13.
VOICES = dict(
    num_labels=5, tdnn_dim=[11, 9, 14], tdnn_kernel=[3, 2, 1], tdnn_dilation=[1, 3, 1], xvector_output_dim=7
)
# 20 samples make a frame.
WAVE = Wave([400, 275])
# Models of the first family are trained without a mask.
ZEROS = Wave([400, 275], mask=False)
# The two parts of the normalised weight as most files spell them.
HUB_NAMES = {r"parametrizations\.weight\.original0": "weight_g", r"parametrizations\.weight\.original1": "weight_v"}
# Weights of layers that differ visibly.
STDS = {"layer_weights": 1.0}


def case(name: str, model_class: str, config: dict, inputs: Wave = WAVE, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "Wav2Vec2Model", CONFIG, layers=True),
    case("ctc", "Wav2Vec2ForCTC", CONFIG),
    case("sequence-classification", "Wav2Vec2ForSequenceClassification", CONFIG | LABELS),
    case("audio-frame-classification", "Wav2Vec2ForAudioFrameClassification", CONFIG | LABELS),
    case("model-large", "Wav2Vec2Model", LARGE, layers=True),
    case("ctc-large", "Wav2Vec2ForCTC", LARGE),
    case("sequence-classification-large", "Wav2Vec2ForSequenceClassification", LARGE | LABELS),
    case("audio-frame-classification-large", "Wav2Vec2ForAudioFrameClassification", LARGE | LABELS),
    case("model-no-mask", "Wav2Vec2Model", CONFIG, ZEROS),
    case("ctc-large-no-mask", "Wav2Vec2ForCTC", LARGE, ZEROS),
    case("sequence-classification-no-mask", "Wav2Vec2ForSequenceClassification", CONFIG | LABELS, ZEROS),
    # The families mixed.
    case("model-group-stable", "Wav2Vec2Model", CONFIG | dict(do_stable_layer_norm=True)),
    case("model-layer-not-stable", "Wav2Vec2Model", CONFIG | dict(feat_extract_norm="layer")),
    case("model-conv-bias", "Wav2Vec2Model", CONFIG | dict(conv_bias=True)),
    # A kernel of odd size drops no frame.
    case(
        "model-odd-kernel",
        "Wav2Vec2Model",
        CONFIG | dict(num_conv_pos_embeddings=5, num_conv_pos_embedding_groups=4),
    ),
    case("model-one-group", "Wav2Vec2Model", LARGE | dict(num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=1)),
    case("model-adapter", "Wav2Vec2Model", CONFIG | dict(add_adapter=True, num_adapter_layers=2)),
    case(
        "model-adapter-narrow",
        "Wav2Vec2Model",
        LARGE | dict(add_adapter=True, num_adapter_layers=1, output_hidden_size=10, adapter_kernel_size=4),
    ),
    case(
        "ctc-adapter",
        "Wav2Vec2ForCTC",
        CONFIG | dict(add_adapter=True, num_adapter_layers=2, output_hidden_size=14, adapter_stride=3),
    ),
    # The adapters of one language, in each layer.
    case("ctc-attention-adapter", "Wav2Vec2ForCTC", LARGE | dict(adapter_attn_dim=6)),
    case(
        "sequence-classification-weighted-layers",
        "Wav2Vec2ForSequenceClassification",
        CONFIG | LABELS | dict(use_weighted_layer_sum=True),
    ),
    case(
        "sequence-classification-weighted-layers-large",
        "Wav2Vec2ForSequenceClassification",
        LARGE | LABELS | dict(use_weighted_layer_sum=True),
        layers=True,
    ),
    case(
        "audio-frame-classification-weighted-layers",
        "Wav2Vec2ForAudioFrameClassification",
        CONFIG | LABELS | dict(use_weighted_layer_sum=True),
    ),
    case("x-vector", "Wav2Vec2ForXVector", CONFIG | VOICES),
    case("x-vector-large", "Wav2Vec2ForXVector", LARGE | VOICES),
    case("x-vector-no-mask", "Wav2Vec2ForXVector", CONFIG | VOICES, ZEROS),
    case("x-vector-weighted-layers", "Wav2Vec2ForXVector", CONFIG | VOICES | dict(use_weighted_layer_sum=True)),
    case("x-vector-adapter", "Wav2Vec2ForXVector", CONFIG | VOICES | dict(add_adapter=True, num_adapter_layers=1)),
    # Python counts frames as for a kernel of one, which differs from what this one makes.
    case(
        "x-vector-adapter-kernel",
        "Wav2Vec2ForXVector",
        CONFIG | VOICES | dict(add_adapter=True, num_adapter_layers=1, adapter_kernel_size=4),
    ),
    # The states that are summed lie before the adapter. Under a mask Python pools as many as there are behind it, so that
    # a full mask is not the same as none.
    case(
        "x-vector-adapter-weighted-layers",
        "Wav2Vec2ForXVector",
        CONFIG
        | VOICES
        | dict(add_adapter=True, num_adapter_layers=1, output_hidden_size=10, use_weighted_layer_sum=True),
        ZEROS,
        layers=True,
    ),
    # Layers of one frame each.
    case("x-vector-frames", "Wav2Vec2ForXVector", CONFIG | VOICES | dict(tdnn_kernel=[1] * 3, tdnn_dilation=[1] * 3)),
    # Without masking in training there is no vector for it.
    case("model-no-masking", "Wav2Vec2Model", CONFIG | dict(mask_time_prob=0.0)),
    case("model-relu", "Wav2Vec2Model", CONFIG | dict(hidden_act="relu", feat_extract_activation="relu")),
    case("model-eps", "Wav2Vec2Model", LARGE | dict(layer_norm_eps=1e-2)),
    case(
        "ctc-odd-sizes",
        "Wav2Vec2ForCTC",
        LARGE
        | dict(
            vocab_size=31,
            hidden_size=21,
            num_hidden_layers=3,
            num_attention_heads=3,
            intermediate_size=25,
            conv_dim=[7, 9],
            conv_stride=[7, 3],
            conv_kernel=[9, 4],
            num_conv_pos_embeddings=3,
            num_conv_pos_embedding_groups=3,
        ),
        Wave([300, 431, 64]),
    ),
    case(
        "ctc-sparse-config",
        "Wav2Vec2ForCTC",
        CONFIG,
        ZEROS,
        sparse=True,
        file=dict(num_feat_extract_layers=REMOVED, output_hidden_size=REMOVED),
    ),
    case("model-hub-names", "Wav2Vec2Model", CONFIG, names=HUB_NAMES),
    # Keys as in config.json of facebook/wav2vec2-large-960h-lv60-self.
    case(
        "ctc-hub-config",
        "Wav2Vec2ForCTC",
        LARGE,
        sparse=True,
        names=HUB_NAMES,
        file=dict(
            activation_dropout=0.1,
            apply_spec_augment=True,
            attention_dropout=0.1,
            bos_token_id=1,
            codevector_dim=768,
            contrastive_logits_temperature=0.1,
            ctc_loss_reduction="sum",
            ctc_zero_infinity=False,
            diversity_loss_weight=0.1,
            do_stable_layer_norm=True,
            eos_token_id=2,
            feat_extract_activation="gelu",
            feat_extract_dropout=0.0,
            feat_proj_dropout=0.1,
            feat_quantizer_dropout=0.0,
            final_dropout=0.1,
            gradient_checkpointing=False,
            hidden_act="gelu",
            hidden_dropout=0.1,
            hidden_dropout_prob=0.1,
            initializer_range=0.02,
            layer_norm_eps=1e-05,
            layerdrop=0.1,
            mask_feature_length=10,
            mask_feature_prob=0.0,
            mask_time_length=10,
            mask_time_prob=0.05,
            num_codevector_groups=2,
            num_codevectors_per_group=320,
            num_feat_extract_layers=3,
            num_negatives=100,
            output_hidden_size=REMOVED,
            pad_token_id=0,
            proj_codevector_dim=768,
            transformers_version="4.7.0.dev0",
        ),
    ),
    case("ctc-bf16", "Wav2Vec2ForCTC", LARGE, dtype="bf16"),
]
