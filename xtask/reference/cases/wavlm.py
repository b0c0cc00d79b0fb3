"""WavLM."""

from case import REMOVED, Case, Wave

from .wav2vec2 import HUB_NAMES, LABELS, VOICES, WAVE, ZEROS
from .wav2vec2 import CONFIG as WAV2VEC2

# Of the 19 frames some are so far apart that they share a bucket, and some further than the largest distance.
CONFIG = WAV2VEC2 | dict(num_buckets=16, max_bucket_distance=12)
LARGE = CONFIG | dict(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True)
# Biases that are seen, and gates around the one that they start as.
STDS = {"layer_weights": 1.0, "rel_attn_embed": 0.8, "gru_rel_pos_const": (1.0, 0.3)}
# Python gives the mean of all heads in place of each head's map.
NO_MAPS = dict(output_attentions=False)


def case(name: str, model_class: str, config: dict, inputs: Wave = WAVE, layers: bool = False, **rest) -> Case:
    """A case, without hidden states unless it asks for them."""
    return Case(name, model_class, config, inputs, NO_MAPS, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "WavLMModel", CONFIG, layers=True),
    case("ctc", "WavLMForCTC", CONFIG),
    case("sequence-classification", "WavLMForSequenceClassification", CONFIG | LABELS),
    case("audio-frame-classification", "WavLMForAudioFrameClassification", CONFIG | LABELS),
    case("model-large", "WavLMModel", LARGE, layers=True),
    case("ctc-large", "WavLMForCTC", LARGE),
    case("sequence-classification-large", "WavLMForSequenceClassification", LARGE | LABELS),
    case("model-no-mask", "WavLMModel", CONFIG, ZEROS),
    case("audio-frame-classification-no-mask", "WavLMForAudioFrameClassification", LARGE | LABELS, ZEROS),
    # As many buckets as there are in all checkpoints: distances have one each.
    case("model-many-buckets", "WavLMModel", CONFIG | dict(num_buckets=320, max_bucket_distance=800)),
    case("model-adapter", "WavLMModel", CONFIG | dict(add_adapter=True, num_adapter_layers=2, output_hidden_size=14)),
    case(
        "sequence-classification-weighted-layers",
        "WavLMForSequenceClassification",
        CONFIG | LABELS | dict(use_weighted_layer_sum=True),
    ),
    case(
        "audio-frame-classification-weighted-layers",
        "WavLMForAudioFrameClassification",
        LARGE | LABELS | dict(use_weighted_layer_sum=True),
        layers=True,
    ),
    case("x-vector", "WavLMForXVector", CONFIG | VOICES),
    case("x-vector-no-mask", "WavLMForXVector", LARGE | VOICES, ZEROS),
    case(
        "x-vector-weighted-layers",
        "WavLMForXVector",
        LARGE | VOICES | dict(use_weighted_layer_sum=True),
        layers=True,
    ),
    case(
        "ctc-odd-sizes",
        "WavLMForCTC",
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
    case("model-eps", "WavLMModel", CONFIG | dict(layer_norm_eps=1e-2)),
    # Keys as in config.json of microsoft/wavlm-base-plus.
    case(
        "model-hub-config",
        "WavLMModel",
        CONFIG,
        sparse=True,
        names=HUB_NAMES,
        file=dict(
            activation_dropout=0.0,
            apply_spec_augment=True,
            attention_dropout=0.1,
            bos_token_id=1,
            codevector_dim=256,
            contrastive_logits_temperature=0.1,
            ctc_loss_reduction="sum",
            ctc_zero_infinity=False,
            diversity_loss_weight=0.1,
            do_stable_layer_norm=False,
            eos_token_id=2,
            feat_extract_activation="gelu",
            feat_extract_norm="group",
            feat_proj_dropout=0.1,
            feat_quantizer_dropout=0.0,
            final_dropout=0.0,
            freeze_feat_extract_train=True,
            hidden_act="gelu",
            hidden_dropout=0.1,
            initializer_range=0.02,
            layer_norm_eps=1e-05,
            layerdrop=0.05,
            mask_channel_length=10,
            mask_channel_min_space=1,
            mask_channel_other=0.0,
            mask_channel_prob=0.0,
            mask_channel_selection="static",
            mask_feature_length=10,
            mask_feature_prob=0.0,
            mask_time_length=10,
            mask_time_min_masks=2,
            mask_time_prob=0.05,
            no_mask_channel_overlap=False,
            no_mask_time_overlap=False,
            num_codevector_groups=2,
            num_codevectors_per_group=320,
            num_ctc_classes=80,
            num_feat_extract_layers=3,
            num_negatives=100,
            output_hidden_size=REMOVED,
            pad_token_id=0,
            proj_codevector_dim=256,
            replace_prob=0.5,
            tokenizer_class="Wav2Vec2CTCTokenizer",
            transformers_version="4.15.0.dev0",
        ),
    ),
    case("ctc-bf16", "WavLMForCTC", CONFIG, dtype="bf16"),
]
