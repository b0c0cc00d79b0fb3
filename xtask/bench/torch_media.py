"""The worker for pictures and sounds with PyTorch: transformers' models in f32, with the attention they choose
themselves."""

import argparse
from pathlib import Path

import worker  # first, so that nothing else prints to stdout

import torch
import transformers


def load(model_class: type, args: argparse.Namespace) -> torch.nn.Module:
    return model_class.from_pretrained(args.model, dtype=torch.float32).eval()


def classify(args: argparse.Namespace):
    model = load(transformers.AutoModelForImageClassification, args)
    pixel_values = torch.from_numpy(worker.pictures(args.batch, model.config.num_channels))
    return lambda: model(pixel_values=pixel_values).logits


def compare(args: argparse.Namespace):
    model = load(transformers.AutoModelForZeroShotImageClassification, args)
    pixel_values = torch.from_numpy(worker.pictures(1, model.config.vision_config.num_channels))
    input_ids = torch.tensor(worker.token_ids(args.texts, args.seq, model.config.text_config.vocab_size))
    return lambda: model(input_ids=input_ids, pixel_values=pixel_values).logits_per_image


def spectrogram(config: transformers.PreTrainedConfig) -> torch.Tensor:
    # The second convolution of the encoder makes one position of two frames.
    return torch.from_numpy(worker.normal(1, config.num_mel_bins, 2 * config.max_source_positions))


def encode(args: argparse.Namespace):
    model = load(transformers.AutoModelForSpeechSeq2Seq, args)
    input_features = spectrogram(model.config)

    def work():
        x = model.get_encoder()(input_features).last_hidden_state
        # What the first step of decoding would make, and tx makes here: the decoder's keys and values of it.
        for layer in model.get_decoder().layers:
            layer.encoder_attn.k_proj(x), layer.encoder_attn.v_proj(x)
        return x

    return work


def decode(args: argparse.Namespace):
    model = load(transformers.AutoModelForSpeechSeq2Seq, args)
    encoder_outputs = model.get_encoder()(spectrogram(model.config))
    token_ids = torch.tensor(worker.token_ids(1, args.prompt + 1, model.config.vocab_size))
    prompt, first = token_ids.split([args.prompt, 1], dim=1)
    cache = transformers.EncoderDecoderCache(transformers.DynamicCache(), transformers.DynamicCache())

    def scores(token_ids):
        outputs = model(
            encoder_outputs=encoder_outputs, decoder_input_ids=token_ids, past_key_values=cache, use_cache=True
        )
        return outputs.logits[:, -1]

    def work():
        cache.crop(args.prompt - cache.get_seq_length())
        result = logits = scores(first)
        for _ in range(args.steps - 1):
            logits = scores(logits.argmax(-1, keepdim=True))
        return result

    scores(prompt)
    return work


def ctc(args: argparse.Namespace):
    model = load(transformers.AutoModelForCTC, args)
    input_values = torch.from_numpy(worker.normal(1, args.samples))
    return lambda: model(input_values=input_values).logits


WORKS = {work.__name__: work for work in (classify, compare, encode, decode, ctc)}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    worker.add_media(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    work = WORKS[args.work](args)
    worker.serve(f"torch {torch.__version__.split('+')[0]} f32", lambda: work().numpy())


if __name__ == "__main__":
    main()
