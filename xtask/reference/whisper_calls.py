"""The models of tests/data/whisper, and the calls that `generation_whisper.py` records with them."""

from dataclasses import dataclass, field

from whisper_tokens import LANGUAGES, TIMES, TOKENS


@dataclass(frozen=True)
class Call:
    """A call of `generate`, or of the pipeline."""

    name: str
    # How much of the speech it hears.
    seconds: float
    arguments: dict
    # Keys of generation_config.json for this call; None takes one out.
    settings: dict = field(default_factory=dict)
    # Arguments without which the result has to be another.
    changed: tuple[str, ...] = ()
    # What has to happen: see `Watch.shows`.
    shows: tuple[str, ...] = ()
    # Tokens of time are as good as suppressed: a model that learned something does not write them unasked.
    timeless: bool = False


def short(name: str, seconds=7.0, changed=None, settings=None, shows=(), timeless=True, **arguments) -> Call:
    """A call without times; all of its arguments have to change the result, unless it says which."""
    changed = tuple(arguments) if changed is None else changed
    return Call(name, seconds, dict(max_new_tokens=40) | arguments, settings or {}, changed, shows, timeless)


def timed(name: str, seconds=7.0, changed=None, settings=None, shows=(), **arguments) -> Call:
    """A call with times."""
    return short(name, seconds, changed, settings, shows, False, **dict(return_timestamps=True) | arguments)


def long(name: str, seconds=75.0, changed=None, settings=None, shows=("parts",), **arguments) -> Call:
    """A call with more than the model hears at once."""
    changed = tuple(arguments) if changed is None else changed
    return Call(name, seconds, dict(max_new_tokens=60) | arguments, settings or {}, changed, shows)


def pipe(name: str, seconds: float, settings=None, timeless=False, **arguments) -> Call:
    """A call of the pipeline."""
    return Call(name, seconds, arguments, settings or {}, timeless=timeless)


@dataclass(frozen=True)
class Model:
    """A model, its files, and what it is asked for."""

    name: str
    config: dict
    # Standard deviations by a pattern of the tensor's name. Others are such that numbers stay at about one.
    stds: dict
    # generation_config.json
    settings: dict
    # preprocessor_config.json
    extractor: dict
    calls: list[Call]
    pipelines: list[Call]


EOS, START, PREV = TOKENS["<|endoftext|>"], TOKENS["<|startoftranscript|>"], TOKENS["<|startofprev|>"]
SIZES = dict(
    pad_token_id=EOS,
    bos_token_id=EOS,
    eos_token_id=EOS,
    decoder_start_token_id=START,
    suppress_tokens=None,
    begin_suppress_tokens=None,
)
SETTINGS = dict(
    bos_token_id=EOS,
    eos_token_id=EOS,
    pad_token_id=EOS,
    decoder_start_token_id=START,
    no_timestamps_token_id=TOKENS["<|notimestamps|>"],
    max_initial_timestamp_index=50,
    begin_suppress_tokens=[220, EOS],
    # As OpenAI's models have it: some tokens of text, and the special ones.
    suppress_tokens=[1, 2, 7, 8, 9, 10, 14, 25, *range(START, TIMES)],
)
LANGUAGE_IDS = {f"<|{code}|>": TOKENS[f"<|{code}|>"] for code in LANGUAGES}
TASK_IDS = dict(transcribe=TOKENS["<|transcribe|>"], translate=TOKENS["<|translate|>"])
PROMPT = [PREV, 311, 402, 88, 651]
SHORT, LONG = dict(max_new_tokens=30), dict(max_new_tokens=60, num_beams=1)


# The text depends on the sound and on the tokens so far, words and times take turns, and some texts end.
MULTILINGUAL = Model(
    "multilingual",
    SIZES
    | dict(
        vocab_size=TIMES + 1501,
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_layers=2,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        tie_word_embeddings=False,
    ),
    {
        "encoder_attn.(q|k)_proj.weight": 1.0,
        "encoder_attn.v_proj.bias": 0.01,
        "encoder_attn.out_proj.weight": 0.25,
        "decoder.*self_attn.out_proj.weight": 0.125,
        "fc2.weight": 0.09,
        "conv1.weight": 0.39,
        "encoder.embed_positions": 0.05,
        "decoder.embed_positions": 1.0,
        "embed_tokens": 0.6,
        "proj_out": 1.0,
    },
    SETTINGS
    | dict(
        is_multilingual=True,
        lang_to_id=LANGUAGE_IDS,
        task_to_id=TASK_IDS,
        prev_sot_token_id=PREV,
        alignment_heads=[[0, 1], [1, 0], [1, 3]],
        max_length=448,
        # A random model would hardly ever end a text.
        sequence_bias=[[[EOS], 9.0]],
    ),
    dict(feature_size=80, chunk_length=30),
    [
        short("language", language="en", changed=()),
        short("language-by-name", language="German", changed=()),
        short("language-by-token", language="<|ja|>", changed=()),
        short("language-detected", changed=()),
        short("language-detected-elsewhere", seconds=4.0, changed=()),
        short("translate", language="es", task="translate"),
        short("translate-detected", task="translate"),
        short("transcribe-detected", task="transcribe"),
        short("half-a-minute", seconds=30.0, language="en", changed=()),
        short("less-than-a-frame", seconds=0.007, language="en", changed=()),
        short("prompt", language="en", prompt_ids=PROMPT),
        short("prompt-without-start", language="en", prompt_ids=PROMPT[1:]),
        short("beams-2", language="en", num_beams=2),
        short("beams-5", language="de", num_beams=5, changed=("num_beams",)),
        short("beams-3-prompt", num_beams=3, prompt_ids=PROMPT),
        short("max-new-tokens", max_new_tokens=5),
        short("max-length", settings=dict(max_length=19), max_new_tokens=None, language="fr"),
        short("default-length", settings=dict(max_length=None), max_new_tokens=None, language="fr", changed=()),
        short("default-length-prompt", settings=dict(max_length=None), max_new_tokens=None, prompt_ids=PROMPT),
        short("repetition-penalty", repetition_penalty=1.5),
        short("no-repeat-ngram", no_repeat_ngram_size=1),
        short("times-unasked", seconds=9.0, language="en", timeless=False, changed=()),
        timed(
            "suppress-tokens",
            suppress_tokens=[0, 243, 410, 440, 480, 507, 512, 553, 639, 691, *range(START, TIMES)],
            changed=("suppress_tokens",),
        ),
        timed(
            "begin-suppress-tokens",
            begin_suppress_tokens=list(range(TIMES, TIMES + 45)),
            changed=("begin_suppress_tokens",),
        ),
        timed("suppress-nothing", settings=dict(suppress_tokens=None, begin_suppress_tokens=None), changed=()),
        short("forced-ids", settings=dict(forced_decoder_ids=[[1, TOKENS["<|fr|>"]], [2, TASK_IDS["translate"]]])),
        short("forced-ids-detected", settings=dict(forced_decoder_ids=[[1, None], [2, TASK_IDS["transcribe"]]])),
        short("language-and-task-of-the-file", settings=dict(language="zh", task="translate")),
        short("times-of-the-file", settings=dict(return_timestamps=True), timeless=False),
        short("times-of-the-file-not", settings=dict(return_timestamps=True), return_timestamps=False),
        short("token-times", language="en", return_token_timestamps=True, changed=()),
        short("token-times-beams", language="de", return_token_timestamps=True, num_beams=3, changed=("num_beams",)),
        short("token-times-prompt", return_token_timestamps=True, prompt_ids=PROMPT, changed=("prompt_ids",)),
        timed("timed", language="en", changed=()),
        timed("timed-detected", changed=()),
        timed("timed-translate", task="translate", changed=("task",)),
        timed("timed-half-a-minute", seconds=30.0, language="en", changed=()),
        timed("timed-prompt", prompt_ids=PROMPT, language="en", changed=("prompt_ids",)),
        timed("timed-beams-2", num_beams=2, changed=("num_beams",)),
        timed("timed-any-start", settings=dict(max_initial_timestamp_index=None), changed=()),
        timed("timed-no-repeat-ngram", no_repeat_ngram_size=2, changed=("no_repeat_ngram_size",)),
        timed("timed-conditioned", seconds=20.0, condition_on_prev_tokens=True, changed=("condition_on_prev_tokens",)),
        timed("timed-token-times", language="en", return_token_timestamps=True, changed=()),
        timed("timed-token-times-beams", num_beams=2, return_token_timestamps=True, changed=("num_beams",)),
        long("long", language="en", changed=()),
        long("long-detected", changed=()),
        long("long-translate", language="fr", task="translate"),
        long("long-default-length", settings=dict(max_length=None), max_new_tokens=None, language="en", changed=()),
        long("long-max-length", settings=dict(max_length=30), max_new_tokens=None, language="en", changed=()),
        long("long-conditioned", condition_on_prev_tokens=True),
        long("long-conditioned-not", condition_on_prev_tokens=False, language="es", changed=()),
        long("long-conditioned-by-the-file", settings=dict(condition_on_prev_tokens=True), language="en"),
        long("long-conditioned-unnamed", settings=dict(prev_sot_token_id=None), condition_on_prev_tokens=True),
        long("long-prompt", prompt_ids=PROMPT),
        long("long-prompt-conditioned", prompt_ids=PROMPT, condition_on_prev_tokens=True),
        long("long-beams-2", num_beams=2),
        long("long-beams-2-conditioned", num_beams=2, condition_on_prev_tokens=True),
        long("long-token-times", language="en", return_token_timestamps=True, changed=()),
        long("long-token-times-conditioned", return_token_timestamps=True, condition_on_prev_tokens=True, changed=()),
        long("long-token-times-beams", return_token_timestamps=True, num_beams=2, changed=("num_beams",)),
        # A temperature that is not 0 leaves no beams.
        short("warm", num_beams=3, temperature=0.3, top_k=1, changed=("temperature",)),
        short(
            "fallback",
            num_beams=3,
            temperature=[0.0, 0.2, 0.4],
            logprob_threshold=-0.1,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
        ),
        short(
            "fallback-ratio",
            num_beams=3,
            temperature=[0.0, 0.2, 0.4],
            compression_ratio_threshold=0.3,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold"),
        ),
        long(
            "long-fallback",
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.48,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
            shows=("parts", "fallback"),
        ),
        long(
            "long-no-speech",
            language="en",
            temperature=0.0,
            logprob_threshold=-0.3,
            no_speech_threshold=1e-9,
            changed=("no_speech_threshold",),
            shows=("parts", "skip"),
        ),
        # The tokens are those of temperature 0: it is tried again for nothing.
        long(
            "long-fallback-greedy",
            temperature=[0.0, 1e-5, 2e-5],
            compression_ratio_threshold=1.15,
            logprob_threshold=-0.5,
            changed=(),
            shows=("parts", "fallback"),
        ),
        long(
            "long-fallback-cold",
            num_beams=3,
            temperature=[0.0, 1e-5, 2e-5],
            compression_ratio_threshold=1.15,
            logprob_threshold=-0.48,
            changed=("temperature", "logprob_threshold"),
            shows=("parts", "fallback"),
        ),
    ],
    [
        pipe("text", 7.0, timeless=True, generate_kwargs=SHORT),
        pipe("text-greedy", 7.0, timeless=True, generate_kwargs=SHORT | dict(num_beams=1)),
        pipe("text-beams-of-the-file", 7.0, timeless=True, settings=dict(num_beams=1), generate_kwargs=SHORT),
        pipe("text-language", 7.0, timeless=True, return_language=True, generate_kwargs=SHORT),
        pipe("text-translate", 7.0, timeless=True, generate_kwargs=SHORT | dict(language="de", task="translate")),
        pipe("text-of-the-file", 7.0, settings=dict(return_timestamps=True), generate_kwargs=SHORT),
        pipe("segments", 9.0, return_timestamps=True, generate_kwargs=SHORT),
        pipe("segments-language", 9.0, return_timestamps=True, return_language=True, generate_kwargs=SHORT),
        pipe("words", 9.0, return_timestamps="word", generate_kwargs=SHORT),
        pipe("long-text", 75.0, generate_kwargs=LONG),
        pipe("long-segments", 75.0, return_timestamps=True, generate_kwargs=LONG),
        pipe("long-segments-language", 75.0, return_timestamps=True, return_language=True, generate_kwargs=LONG),
        pipe("long-words", 75.0, return_timestamps="word", generate_kwargs=LONG),
        pipe(
            "long-words-conditioned",
            75.0,
            return_timestamps="word",
            generate_kwargs=LONG | dict(condition_on_prev_tokens=True),
        ),
        pipe("chunks", 40.0, timeless=True, chunk_length_s=12, generate_kwargs=SHORT | dict(num_beams=1)),
        pipe(
            "chunks-language",
            40.0,
            timeless=True,
            chunk_length_s=12,
            return_language=True,
            generate_kwargs=SHORT | dict(num_beams=1),
        ),
        pipe("chunks-segments", 75.0, chunk_length_s=30, return_timestamps=True, generate_kwargs=LONG),
        pipe(
            "chunks-segments-stride",
            60.0,
            chunk_length_s=20,
            stride_length_s=[4, 2.5],
            return_timestamps=True,
            generate_kwargs=LONG,
        ),
        pipe("chunks-words", 75.0, chunk_length_s=30, return_timestamps="word", generate_kwargs=LONG),
    ],
)

# Half a second of everything: 5 seconds at once, and no languages.
ENGLISH = Model(
    "english",
    SIZES
    | dict(
        vocab_size=TIMES + 251,
        num_mel_bins=128,
        d_model=48,
        encoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=96,
        decoder_layers=3,
        decoder_attention_heads=3,
        decoder_ffn_dim=96,
        max_source_positions=250,
        max_target_positions=96,
        median_filter_width=5,
    ),
    {
        "encoder_attn.(q|k)_proj.weight": 0.7,
        "encoder_attn.v_proj.bias": 0.01,
        "encoder_attn.out_proj.weight": 1.15,
        "decoder.*self_attn.out_proj.weight": 0.87,
        "fc2.weight": 0.1,
        "conv1.weight": 0.5,
        "encoder.embed_positions": 0.2,
        "decoder.embed_positions": 1.0,
        "embed_tokens": 0.8,
    },
    SETTINGS
    | dict(
        is_multilingual=False,
        alignment_heads=[[0, 1], [2, 0], [2, 1]],
        max_length=96,
        max_initial_timestamp_index=25,
        sequence_bias=[[[EOS], 2.0]],
    ),
    dict(feature_size=128, chunk_length=5),
    [
        short("greedy", seconds=4.0, max_new_tokens=None),
        short("beams-3", seconds=4.0, num_beams=3),
        timed("timed", seconds=5.0, max_new_tokens=None, changed=()),
        timed("timed-token-times", seconds=4.0, return_token_timestamps=True, changed=()),
        long("long", max_new_tokens=None),
        long("long-max-new-tokens", max_new_tokens=25),
        long("long-beams-3", seconds=16.0, num_beams=3),
        long("long-any-start", settings=dict(max_initial_timestamp_index=None), changed=()),
        long("long-conditioned", max_new_tokens=None, condition_on_prev_tokens=True),
        long("long-conditioned-max-new-tokens", max_new_tokens=30, condition_on_prev_tokens=True),
        long("long-prompt", prompt_ids=PROMPT[1:], max_new_tokens=40),
        # What was said before leaves no room for the prompt, unless it is for all segments.
        long(
            "long-prompt-all-segments",
            max_new_tokens=30,
            prompt_ids=PROMPT,
            condition_on_prev_tokens=True,
            prompt_condition_type="all-segments",
            changed=("prompt_ids", "prompt_condition_type"),
        ),
        long("long-token-times", return_token_timestamps=True, changed=()),
        long("long-repetition-penalty", repetition_penalty=1.3),
        long("long-silent-frames", settings=dict(alignment_heads=[[1, 2]]), return_token_timestamps=True, changed=()),
        long(
            "long-fallback",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.6,
            top_k=1,
            changed=("temperature", "logprob_threshold"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-ratio",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2, 0.4],
            compression_ratio_threshold=0.85,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-ratio-of-the-file",
            seconds=22.0,
            settings=dict(compression_ratio_threshold=0.85),
            num_beams=2,
            temperature=[0.0, 0.2, 0.4],
            top_k=1,
            changed=("temperature",),
            shows=("fallback",),
        ),
        # What was said at a high temperature is no condition for what is said next.
        long(
            "long-fallback-conditioned",
            max_new_tokens=30,
            temperature=[0.0, 0.3, 0.6],
            compression_ratio_threshold=1.18,
            condition_on_prev_tokens=True,
            top_k=1,
            changed=("temperature", "compression_ratio_threshold", "condition_on_prev_tokens"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-all",
            seconds=22.0,
            max_new_tokens=30,
            num_beams=3,
            temperature=[0.0, 0.5, 1.0],
            compression_ratio_threshold=0.9,
            logprob_threshold=-0.7,
            top_k=1,
            condition_on_prev_tokens=True,
            changed=("temperature", "compression_ratio_threshold", "logprob_threshold"),
            shows=("fallback",),
        ),
        # What OpenAI recommends.
        long(
            "long-fallback-recommended",
            max_new_tokens=30,
            temperature=[0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio_threshold=1.35,
            logprob_threshold=-1.0,
            no_speech_threshold=0.6,
            top_k=1,
            condition_on_prev_tokens=True,
            changed=("temperature", "compression_ratio_threshold", "condition_on_prev_tokens"),
            shows=("fallback",),
        ),
        long(
            "long-fallback-cold",
            max_new_tokens=40,
            num_beams=2,
            temperature=[0.0, 1e-5, 2e-5],
            logprob_threshold=-0.6,
            changed=("temperature", "logprob_threshold"),
            shows=("parts", "fallback"),
        ),
        long(
            "long-no-speech",
            temperature=0.0,
            logprob_threshold=-0.6,
            no_speech_threshold=1e-9,
            changed=("no_speech_threshold",),
            shows=("skip",),
        ),
        long(
            "long-no-speech-conditioned",
            max_new_tokens=30,
            temperature=[0.0, 0.8],
            logprob_threshold=-0.6,
            no_speech_threshold=1e-9,
            condition_on_prev_tokens=True,
            top_k=1,
            changed=("no_speech_threshold", "condition_on_prev_tokens"),
            shows=("skip", "fallback"),
        ),
        long(
            "long-no-speech-beams",
            seconds=22.0,
            num_beams=2,
            temperature=[0.0, 0.2],
            logprob_threshold=-0.62,
            no_speech_threshold=1e-9,
            top_k=1,
            changed=("no_speech_threshold", "temperature"),
            shows=("skip", "fallback"),
        ),
        # Python takes the logits for logarithms of probabilities where a search with beams was asked for and there are
        # none any more.
        long(
            "long-no-speech-cold",
            seconds=40.0,
            num_beams=2,
            temperature=[0.0, 1e-5],
            logprob_threshold=-0.6,
            no_speech_threshold=1e-5,
            changed=("no_speech_threshold", "temperature"),
            shows=("skip", "fallback"),
        ),
    ],
    [
        pipe("text", 4.0, timeless=True),
        pipe("words", 4.0, return_timestamps="word"),
        pipe("long-text", 75.0, generate_kwargs=LONG),
        pipe("long-segments", 75.0, return_timestamps=True, generate_kwargs=LONG),
        pipe("long-segments-beams", 18.0, return_timestamps=True, generate_kwargs=dict(max_new_tokens=40)),
        pipe("long-words", 75.0, return_timestamps="word", generate_kwargs=LONG),
        pipe("chunks-text", 20.0, timeless=True, chunk_length_s=4, generate_kwargs=LONG),
        pipe("chunks-segments", 60.0, chunk_length_s=5, return_timestamps=True, generate_kwargs=LONG),
        pipe("chunks-words", 60.0, chunk_length_s=4, stride_length_s=1, return_timestamps="word", generate_kwargs=LONG),
    ],
)
