//! The heads of decoder-only models, which are the same for all of them.
//!
//! An architecture is its base model alone, a [`Decoder`]; here are the classes that HF builds on each:
//! [`ForCausalLm`], [`ForSequenceClassification`], [`ForTokenClassification`] and [`ForQuestionAnswering`].

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Bool, Device, Int, Tensor};

use crate::config::ModelConfig;
use crate::nn::{Cache, CacheKind, Linear};
use crate::task::{
    BaseModelOutput, CausalLm, QuestionAnswerer, QuestionAnsweringOutput, Record, SequenceClassifier, TextInputs,
    TextLimits, TextModel, TokenClassifier,
};
use crate::weights::load::{Parts, Pretrained, Rename};

/// A config that says what the heads of its decoder are like.
pub trait DecoderConfig: ModelConfig<Limits = TextLimits> {
    /// What the heads need of it.
    fn head(&self) -> HeadConfig;
}

/// The keys of a decoder's config that its heads need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadConfig {
    /// Elements of a hidden state, as the head reads it.
    pub hidden_size: usize,
    /// Rows of the language-modelling head.
    pub vocab_size: usize,
    /// Whether it shares the embedding's tensor.
    pub tie_word_embeddings: bool,
    /// Labels of a classifier.
    pub num_labels: usize,
    /// What a classifier takes for padding; what the mask hides if this is no token.
    pub pad_token_id: Option<i64>,
    /// Whether the language-modelling head has a bias.
    pub head_bias: bool,
}

/// The base model of a decoder-only architecture: embeddings, layers, and the last norm.
pub trait Decoder: Module + ModuleDisplay + Send + Sync + std::fmt::Debug + 'static {
    /// The typed view of its `config.json`.
    type Config: DecoderConfig;

    /// HF's `base_model_prefix`.
    const PREFIX: &'static str = "model";

    /// The prefix in files of the class for question answering, which HF changes for some.
    const QUESTION_ANSWERING_PREFIX: &'static str = Self::PREFIX;

    /// What reads differently in files.
    const RENAMES: &'static [Rename] = &[];

    /// The same for the class for token classification; its head is `score` here.
    const TOKEN_CLASSIFICATION_RENAMES: &'static [Rename] = Self::RENAMES;

    /// Tensors of the file, by the start or the end of their name without the prefix, that no class has a use for.
    const IGNORED: &'static [&'static str] = &[];

    /// The head's weight and the embedding's, as paths in [`ForCausalLm`].
    const TIED: &'static [(&'static str, &'static str)] = &[("lm_head.weight", "model.embed_tokens.weight")];

    /// The module with uninitialised parameters.
    fn new(config: &Self::Config, device: &Device) -> Self;

    /// What each layer keeps of the tokens it has seen.
    fn cache_kinds(&self) -> Vec<CacheKind>;

    /// See [`CausalLm::restarts_at`].
    fn restarts_at(&self) -> Option<usize> {
        None
    }

    /// # Shapes
    /// - input_ids: `[batch, seq]`
    /// - output: `[batch, seq, hidden]`
    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3>;

    /// The layers and the last norm. The tokens follow `cache.length()` others.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, hidden]`
    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3>;

    /// What becomes of the scores of the head.
    ///
    /// # Shapes
    /// - logits, output: `[batch, seq, vocab]`
    fn logits(&self, logits: Tensor<3>) -> Tensor<3> {
        logits
    }
}

/// A single pass over whole sequences.
fn encode<M: Decoder>(model: &M, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
    let mut cache = Cache::off(model.cache_kinds().len());
    model.decode(model.embed(inputs.input_ids.clone()), inputs, &mut cache, record)
}

impl<M: Decoder> Pretrained for M {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const RENAMES: &'static [Rename] = M::RENAMES;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, _: &Parts, device: &Device) -> Self {
        M::new(config, device)
    }
}

impl<M: Decoder> TextModel for M {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> BaseModelOutput {
        BaseModelOutput { last_hidden_state: encode(self, inputs, record), pooler_output: None }
    }
}

/// A decoder with a language-modelling head.
#[derive(Module, Debug)]
pub struct ForCausalLm<M: Module> {
    model: M,
    lm_head: Linear,
}

impl<M: Decoder> Pretrained for ForCausalLm<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn tied(config: &M::Config) -> &'static [(&'static str, &'static str)] {
        if config.head().tie_word_embeddings { M::TIED } else { &[] }
    }

    fn init(config: &M::Config, _: &Parts, device: &Device) -> Self {
        let HeadConfig { hidden_size, vocab_size, head_bias, .. } = config.head();
        let lm_head = Linear::new(hidden_size, vocab_size, head_bias, device);
        Self { model: M::new(config, device), lm_head }
    }
}

impl<M: Decoder> CausalLm for ForCausalLm<M> {
    fn cache_kinds(&self) -> Vec<CacheKind> {
        self.model.cache_kinds()
    }

    fn restarts_at(&self) -> Option<usize> {
        self.model.restarts_at()
    }

    fn embed(&self, input_ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed(input_ids)
    }

    fn decode(&self, x: Tensor<3>, inputs: &TextInputs, cache: &mut Cache, record: &mut Record) -> Tensor<3> {
        let x = self.model.decode(x, inputs, cache, record);
        cache.advance(x.dims()[1]);
        x
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        self.model.logits(self.lm_head.forward(x))
    }
}

/// A decoder with a classifier on the last token that is not padding.
#[derive(Module, Debug)]
pub struct ForSequenceClassification<M: Module> {
    model: M,
    score: Linear,
    #[module(skip)]
    pad_token_id: Option<i64>,
}

impl<M: Decoder> Pretrained for ForSequenceClassification<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, _: &Parts, device: &Device) -> Self {
        let HeadConfig { hidden_size, vocab_size, num_labels, pad_token_id, .. } = config.head();
        let score = Linear::new(hidden_size, num_labels, false, device);
        // Some configs have -1 for none.
        let pad_token_id = pad_token_id.filter(|id| (0..vocab_size as i64).contains(id));
        Self { model: M::new(config, device), score, pad_token_id }
    }
}

impl<M: Decoder> SequenceClassifier for ForSequenceClassification<M> {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<2> {
        let x = encode(&self.model, inputs, record);
        let [batch, seq, hidden] = x.dims();
        let is_token: Option<Tensor<2, Bool>> = match (self.pad_token_id, &inputs.attention_mask) {
            (Some(pad), _) => Some(inputs.input_ids.clone().not_equal_elem(pad)),
            // A mask begins with keys and values that came before the text, if there are any.
            (None, Some(mask)) => {
                let [_, keys] = mask.dims();
                Some(mask.clone().narrow(1, keys - seq, seq).not_equal_elem(0i64))
            }
            (None, None) => None,
        };
        let last: Tensor<2, Int> = match is_token {
            // The rightmost one, whatever the side of the padding.
            Some(is_token) => {
                let position = Tensor::arange(0..seq as i64, &x.device()).unsqueeze::<2>();
                (is_token.int() * position).max_dim(1)
            }
            None => Tensor::full([batch, 1], seq as i64 - 1, &x.device()),
        };
        let last = last.reshape([batch, 1, 1]).expand([batch, 1, hidden]);
        self.score.forward(x.gather(1, last).squeeze_dim::<2>(1))
    }
}

/// A decoder with a classifier on every token.
#[derive(Module, Debug)]
pub struct ForTokenClassification<M: Module> {
    model: M,
    score: Linear,
}

impl<M: Decoder> Pretrained for ForTokenClassification<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::TOKEN_CLASSIFICATION_RENAMES;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, _: &Parts, device: &Device) -> Self {
        let HeadConfig { hidden_size, num_labels, .. } = config.head();
        let score = Linear::new(hidden_size, num_labels, true, device);
        Self { model: M::new(config, device), score }
    }
}

impl<M: Decoder> TokenClassifier for ForTokenClassification<M> {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> Tensor<3> {
        self.score.forward(encode(&self.model, inputs, record))
    }
}

/// A decoder with start and end scores for an extractive answer.
#[derive(Module, Debug)]
pub struct ForQuestionAnswering<M: Module> {
    model: M,
    qa_outputs: Linear,
}

impl<M: Decoder> Pretrained for ForQuestionAnswering<M> {
    type Config = M::Config;
    const PREFIX: &'static str = M::QUESTION_ANSWERING_PREFIX;
    const FIELD: &'static str = "model";
    const RENAMES: &'static [Rename] = M::RENAMES;
    const IGNORED: &'static [&'static str] = M::IGNORED;

    fn init(config: &M::Config, _: &Parts, device: &Device) -> Self {
        let qa_outputs = Linear::new(config.head().hidden_size, 2, true, device);
        Self { model: M::new(config, device), qa_outputs }
    }
}

impl<M: Decoder> QuestionAnswerer for ForQuestionAnswering<M> {
    fn forward(&self, inputs: &TextInputs, record: &mut Record) -> QuestionAnsweringOutput {
        QuestionAnsweringOutput::split(self.qa_outputs.forward(encode(&self.model, inputs, record)))
    }
}
