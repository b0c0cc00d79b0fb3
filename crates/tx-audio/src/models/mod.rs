//! Every audio architecture. Add a file, a `mod` line and the lines of its heads; keep all of them sorted.

mod audio_spectrogram_transformer;
mod hubert;
mod wav2vec2;
mod wavlm;
mod whisper;

use tx_core::registry::{
    Class, Entry, audio_classifier, audio_frame_classifier, audio_model, audio_xvector, ctc_model, lines,
    speech_decoder, speech_seq2seq_model, speech_to_text,
};
use tx_core::task::{
    AudioClassifier, AudioFrameClassifier, AudioModel, AudioXVector, CtcModel, SpeechDecoder, SpeechSeq2SeqModel,
    SpeechToText,
};

use audio_spectrogram_transformer::{AstForAudioClassification, AstModel};
use hubert::HubertModel;
use wav2vec2::{ForAudioFrameClassification, ForCtc, ForSequenceClassification, ForXVector, Wav2Vec2Model};
use wavlm::WavLmModel;

/// Sounds to hidden states: HF's `AutoModel`.
pub static AUDIO_MODEL: &[Entry<dyn AudioModel>] = &[
    audio_model::<AstModel>("audio-spectrogram-transformer", "ASTModel"),
    audio_model::<HubertModel>("hubert", "HubertModel"),
    audio_model::<Wav2Vec2Model>("wav2vec2", "Wav2Vec2Model"),
    audio_model::<WavLmModel>("wavlm", "WavLMModel"),
];

/// HF's `AutoModelForCTC`.
pub static CTC: &[Entry<dyn CtcModel>] = &[
    ctc_model::<ForCtc<HubertModel>>("hubert", "HubertForCTC"),
    ctc_model::<ForCtc<Wav2Vec2Model>>("wav2vec2", "Wav2Vec2ForCTC"),
    ctc_model::<ForCtc<WavLmModel>>("wavlm", "WavLMForCTC"),
];

/// HF's `AutoModelForAudioClassification`.
pub static AUDIO_CLASSIFICATION: &[Entry<dyn AudioClassifier>] = &[
    audio_classifier::<AstForAudioClassification>("audio-spectrogram-transformer", "ASTForAudioClassification"),
    audio_classifier::<ForSequenceClassification<HubertModel>>("hubert", "HubertForSequenceClassification"),
    audio_classifier::<ForSequenceClassification<Wav2Vec2Model>>("wav2vec2", "Wav2Vec2ForSequenceClassification"),
    audio_classifier::<ForSequenceClassification<WavLmModel>>("wavlm", "WavLMForSequenceClassification"),
    audio_classifier::<whisper::WhisperForAudioClassification>("whisper", "WhisperForAudioClassification"),
];

/// HF's `AutoModelForAudioFrameClassification`.
pub static AUDIO_FRAME_CLASSIFICATION: &[Entry<dyn AudioFrameClassifier>] = &[
    audio_frame_classifier::<ForAudioFrameClassification<Wav2Vec2Model>>(
        "wav2vec2",
        "Wav2Vec2ForAudioFrameClassification",
    ),
    audio_frame_classifier::<ForAudioFrameClassification<WavLmModel>>("wavlm", "WavLMForAudioFrameClassification"),
];

/// HF's `AutoModelForAudioXVector`.
pub static AUDIO_XVECTOR: &[Entry<dyn AudioXVector>] = &[
    audio_xvector::<ForXVector<Wav2Vec2Model>>("wav2vec2", "Wav2Vec2ForXVector"),
    audio_xvector::<ForXVector<WavLmModel>>("wavlm", "WavLMForXVector"),
];

/// Decoders alone, which HF's `AutoModelForCausalLM` gives.
pub static SPEECH_DECODER: &[Entry<dyn SpeechDecoder>] =
    &[speech_decoder::<whisper::WhisperForCausalLm>("whisper", "WhisperForCausalLM")];

/// Speech and the beginning of a text to hidden states: HF's `AutoModel`.
pub static SPEECH_SEQ2SEQ_MODEL: &[Entry<dyn SpeechSeq2SeqModel>] =
    &[speech_seq2seq_model::<whisper::WhisperModel>("whisper", "WhisperModel")];

/// HF's `AutoModelForSpeechSeq2Seq`.
pub static SPEECH_TO_TEXT: &[Entry<dyn SpeechToText>] =
    &[speech_to_text::<whisper::WhisperForConditionalGeneration>("whisper", "WhisperForConditionalGeneration")];

/// Every class of every table.
pub fn classes() -> Vec<&'static dyn Class> {
    lines(AUDIO_MODEL)
        .chain(lines(CTC))
        .chain(lines(AUDIO_CLASSIFICATION))
        .chain(lines(AUDIO_FRAME_CLASSIFICATION))
        .chain(lines(AUDIO_XVECTOR))
        .chain(lines(SPEECH_DECODER))
        .chain(lines(SPEECH_SEQ2SEQ_MODEL))
        .chain(lines(SPEECH_TO_TEXT))
        .collect()
}
