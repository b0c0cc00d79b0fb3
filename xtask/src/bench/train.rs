//! One update: what fine-tuning does all the time, of all weights or of an adapter.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use tx::burn::tensor::{Int, Tensor};
use tx_core::registry::{LoadOptions, from_folder};
use tx_core::task::{Record, TextArguments, TextInputs, TextModel};
use tx_text::models::{TEXT_MODEL, classes};
use tx_train::arguments::TrainingArguments;
use tx_train::collate::{Batch, BatchLabels};
use tx_train::loss;
use tx_train::optimizer::Optimizer;
use tx_train::parameters::{Gradients, Parameters, Trainable};
use tx_train::peft::{Adapters, CreateOptions, DEFAULT, PeftConfig};
use tx_train::trainer::{ModelOptions, TrainableAdapters, TrainingModel, TrainingTask};

use super::inputs::Random;
use super::worker::serve;

/// Serves updates of all weights of a base model: the first state of each row is to tell its label, the number of the
/// row.
pub fn train(folder: &Path, batch: usize, seq: usize, options: &LoadOptions) -> Result<()> {
    let mut model = from_folder(TEXT_MODEL, &classes(), folder, options)?;
    let input_ids = Random::new().token_ids(batch, seq, model.limits.vocab_size);
    let arguments = TextArguments { input_ids, ..TextArguments::default() };
    let inputs = TextInputs::new(&arguments, &model.limits, &model.device)?;
    let labels = Tensor::<1, Int>::arange(0..batch as i64, &model.device);
    let loss = |model: &dyn TextModel| {
        let states = model.forward(&inputs, &mut Record::none()).last_hidden_state;
        let [_, _, hidden] = states.dims();
        Ok(loss::cross_entropy(states.narrow(1, 0, 1).reshape([batch, hidden]), labels.clone(), 0.0))
    };
    updates(&mut *model.model, &vec![seq; batch], |model| loss(model))
}

/// Serves updates of LoRA on all layers of a language model, which is to foretell its own input.
pub fn lora(folder: &Path, batch: usize, seq: usize, options: &LoadOptions) -> Result<()> {
    let mut model = TrainingModel::from_folder(folder, TrainingTask::CausalLm, &ModelOptions::from(options.clone()))?;
    let limits = model.text_limits().context("a model of texts")?;
    let input_ids = Random::new().token_ids(batch, seq, limits.vocab_size);
    let rows = Batch {
        numbers: (0..batch as u64).collect(),
        origins: Vec::new(),
        texts: vec![TextArguments { input_ids: input_ids.clone(), ..TextArguments::default() }],
        images: Vec::new(),
        labels: BatchLabels::Tokens(input_ids),
        references: Vec::new(),
        tokens: batch * seq,
    };
    let keys = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": "all-linear",
    });
    let config = PeftConfig::from_keys(folder, keys.as_object().cloned().unwrap_or_default())?;
    let mut adapters = Adapters::new();
    adapters.create(model.adaptable(), DEFAULT, &config, &CreateOptions::default())?;
    adapters.begin(Some(0));
    updates(&mut adapters, &vec![seq; batch], |_| Ok(model.loss(&rows, model.forward(&rows)?, 0.0)?.mean()))
}

/// Serves updates by AdamW with HF's defaults. The numbers are the loss of the first update.
fn updates<P: Parameters + ?Sized>(
    source: &mut P,
    lengths: &[usize],
    loss: impl Fn(&P) -> Result<Tensor<1>>,
) -> Result<()> {
    let arguments = TrainingArguments::default();
    Trainable::all().track(source)?;
    let mut optimizer = Optimizer::new(&arguments);
    let mut gradients = Gradients::new(source);
    let mut first = None;
    serve(
        lengths,
        || {
            let loss = loss(source)?;
            let value = loss.clone().without_autodiff().into_scalar::<f32>();
            gradients.add(source, &mut loss.backward());
            gradients.clip(arguments.max_grad_norm);
            optimizer.step(source, &mut gradients, arguments.learning_rate);
            Ok(vec![*first.get_or_insert(value)])
        },
        |values| values,
    )
}
