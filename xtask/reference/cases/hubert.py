"""HuBERT."""

from case import REMOVED, Case, Wave

from .wav2vec2 import CONFIG, HUB_NAMES, LABELS, LARGE, STDS, WAVE, ZEROS


def case(name: str, model_class: str, config: dict, inputs: Wave = WAVE, layers: bool = False, **rest) -> Case:
    """A case, without hidden states and attention maps unless it asks for them."""
    return Case(name, model_class, config, inputs, layers=layers, stds=STDS, **rest)


CASES = [
    case("model", "HubertModel", CONFIG, layers=True),
    case("ctc", "HubertForCTC", CONFIG),
    case("sequence-classification", "HubertForSequenceClassification", CONFIG | LABELS),
    case("model-large", "HubertModel", LARGE, layers=True),
    case("ctc-large", "HubertForCTC", LARGE),
    case("sequence-classification-large", "HubertForSequenceClassification", LARGE | LABELS),
    case("model-no-mask", "HubertModel", CONFIG, ZEROS),
    case("sequence-classification-no-mask", "HubertForSequenceClassification", LARGE | LABELS, ZEROS),
    # A norm of the batch in place of the normalised weight.
    case("model-batch-norm", "HubertModel", CONFIG | dict(conv_pos_batch_norm=True)),
    case("model-no-projection-norm", "HubertModel", CONFIG | dict(feat_proj_layer_norm=False)),
    case(
        "sequence-classification-weighted-layers",
        "HubertForSequenceClassification",
        CONFIG | LABELS | dict(use_weighted_layer_sum=True),
    ),
    case(
        "ctc-odd-sizes",
        "HubertForCTC",
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
    case("model-eps", "HubertModel", CONFIG | dict(layer_norm_eps=1e-2)),
    # Keys as in config.json of facebook/hubert-large-ls960-ft.
    case(
        "ctc-hub-config",
        "HubertForCTC",
        LARGE,
        sparse=True,
        names=HUB_NAMES,
        file=dict(
            activation_dropout=0.1,
            apply_spec_augment=True,
            attention_dropout=0.1,
            bos_token_id=1,
            ctc_loss_reduction="sum",
            ctc_zero_infinity=False,
            eos_token_id=2,
            feat_extract_activation="gelu",
            feat_extract_dropout=0.0,
            feat_proj_dropout=0.1,
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
            num_feat_extract_layers=3,
            output_hidden_size=REMOVED,
            pad_token_id=0,
            transformers_version="4.10.0.dev0",
        ),
    ),
    case("sequence-classification-f16", "HubertForSequenceClassification", CONFIG | LABELS, dtype="f16"),
]
