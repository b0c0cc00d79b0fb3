//! One update of a base model: what fine-tuning does all the time.

use std::path::Path;

use anyhow::Result;
use tx::burn::tensor::{Int, Tensor};
use tx_core::registry::{LoadOptions, from_folder};
use tx_core::task::{Record, TextArguments, TextInputs};
use tx_text::models::{TEXT_MODEL, classes};
use tx_train::arguments::TrainingArguments;
use tx_train::loss;
use tx_train::optimizer::Optimizer;
use tx_train::parameters::{Gradients, Trainable};

use super::inputs::Random;
use super::worker::serve;

/// Serves updates by AdamW with HF's defaults: the first state of each row is to tell its label, the number of the row.
/// The numbers are the loss of the first update.
pub fn train(folder: &Path, batch: usize, seq: usize, options: &LoadOptions) -> Result<()> {
    let mut model = from_folder(TEXT_MODEL, &classes(), folder, options)?;
    let input_ids = Random::new().token_ids(batch, seq, model.limits.vocab_size);
    let arguments = TextArguments { input_ids, ..TextArguments::default() };
    let inputs = TextInputs::new(&arguments, &model.limits, &model.device)?;
    let labels = Tensor::<1, Int>::arange(0..batch as i64, &model.device);

    let arguments = TrainingArguments::default();
    Trainable::all().track(&mut *model.model)?;
    let mut optimizer = Optimizer::new(&arguments);
    let mut gradients = Gradients::new(&*model.model);
    let mut first = None;
    serve(
        &vec![seq; batch],
        || {
            let states = model.model.forward(&inputs, &mut Record::none()).last_hidden_state;
            let [_, _, hidden] = states.dims();
            let loss = loss::cross_entropy(states.narrow(1, 0, 1).reshape([batch, hidden]), labels.clone(), 0.0);
            let value = loss.clone().without_autodiff().into_scalar::<f32>();
            gradients.add(&*model.model, &mut loss.backward());
            gradients.clip(arguments.max_grad_norm);
            optimizer.step(&mut *model.model, &mut gradients, arguments.learning_rate);
            Ok(vec![*first.get_or_insert(value)])
        },
        |values| values,
    )
}
