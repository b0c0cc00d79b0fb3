//! LoRA: two narrow matrices beside the matrix of a layer; with DoRA, and a length for each of its rows.
//!
//! Reference: peft 0.21.2, `tuners/lora/layer.py`, `tuners/lora/dora.py`, `tuners/lora/variants.py`.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::ParamId;
use burn::tensor::{Int, Tensor};
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::{EmbeddingAdapter, LinearAdapter, LinearBase};

use super::config::{LoraConfig, LoraInit, PeftConfig};
use super::files::{Begin, PREFIX, Source, Want};
use super::modules::{Kind, Module, by_pattern};
use super::slot::{Dice, Slot};

/// What LoRA adds to one layer: `s · B · A · x`, or for DoRA what makes the rows of `W + s · B · A` as long as `m`.
#[derive(Debug)]
pub struct Lora {
    /// The module that it is on.
    pub path: String,
    /// The weight of that.
    pub weight: ParamId,
    /// What kind of module it is.
    pub kind: Kind,
    /// `s`
    pub scaling: f64,
    /// `[rank, in]`
    pub a: Slot,
    /// `[out, rank]`
    pub b: Slot,
    /// `[out]`
    pub bias: Option<Slot>,
    /// `m`, of DoRA: `[out]`.
    pub magnitude: Option<Slot>,
    dropout: f64,
    dice: Arc<Dice>,
    norms: Mutex<Norms>,
}

/// What DoRA computes of weights that stay the same.
#[derive(Debug, Default)]
struct Norms {
    /// Of the model's weight: the squares of the lengths of its rows.
    squares: Option<Tensor<1>>,
    /// The lengths of the rows of the sum, with the versions of the two matrices.
    lengths: Option<([u64; 2], Tensor<1>)>,
}

impl Lora {
    /// That of a module, with tensors from `source`.
    ///
    /// # Errors
    /// [`Error::Config`] for patterns; [`Error::Unsupported`] for a module that LoRA cannot be on.
    pub fn new(
        config: &PeftConfig,
        lora: &LoraConfig,
        module: &Module,
        dice: &Arc<Dice>,
        source: &mut dyn Source,
    ) -> Result<Self> {
        let Some((kind, weight)) = module.kind() else {
            return Err(Error::Unsupported {
                path: config.path().to_path_buf(),
                key: "target_modules".into(),
                value: module.path.clone(),
                supported: "linear layers and embeddings".into(),
            });
        };
        let rank = by_pattern(config.path(), "rank_pattern", &lora.rank_pattern, &module.path)?.unwrap_or(lora.r);
        let alpha = by_pattern(config.path(), "alpha_pattern", &lora.alpha_pattern, &module.path)?;
        let root = if lora.use_rslora { (rank as f64).sqrt() } else { rank as f64 };
        let scaling = alpha.unwrap_or(lora.lora_alpha) / root;
        let [input, output] = kind.sizes(&weight.tensor);
        let mut make = |name: &str, shape: &[usize], begin: Begin<'_>| {
            let key = format!("{PREFIX}{}.{name}", module.path);
            source.make(Want { key, layer: "Linear", shape: shape.to_vec(), keep_dtype: false, begin })
        };
        let init = &lora.init_lora_weights;
        let zero = *init != LoraInit::Random;
        let (a, b, bias) = match kind {
            Kind::Embedding => {
                let a: Begin<'_> = Box::new(move |draw| match zero {
                    true => draw.constant(&[rank, input], 0.0),
                    false => draw.normal(&[rank, input], 1.0),
                });
                let b: Begin<'_> = Box::new(move |draw| draw.normal(&[output, rank], 1.0));
                let a = make("lora_embedding_A", &[rank, input], a);
                (a, make("lora_embedding_B", &[output, rank], b), None)
            }
            Kind::Linear | Kind::Transposed => {
                let a: Begin<'_> = Box::new(move |draw| match init {
                    LoraInit::Gaussian => draw.normal(&[rank, input], 1.0 / rank as f64),
                    _ => draw.uniform(&[rank, input], 1.0 / (input as f64).sqrt()),
                });
                let bound = 1.0 / (rank as f64).sqrt();
                let begin = |shape: Vec<usize>| -> Begin<'static> {
                    Box::new(move |draw| match zero {
                        true => draw.constant(&shape, 0.0),
                        false => draw.uniform(&shape, bound),
                    })
                };
                let a = make("lora_A.weight", &[rank, input], a);
                let b = make("lora_B.weight", &[output, rank], begin(vec![output, rank]));
                let bias = lora.lora_bias.then(|| make("lora_B.bias", &[output], begin(vec![output])));
                (a, b, bias)
            }
        };
        let mut norms = Norms::default();
        let magnitude = lora.use_dora.then(|| {
            let base = LinearBase::new(weight.tensor.clone().untrack().to(), None, kind.is_transposed());
            let begin: Begin<'_> = Box::new(|_| norms.of(&a, &b, scaling, &base).into());
            make("lora_magnitude_vector", &[output], begin)
        });
        Ok(Self {
            path: module.path.clone(),
            weight: weight.id,
            kind,
            scaling,
            a,
            b,
            bias,
            magnitude,
            dropout: if kind == Kind::Embedding { 0.0 } else { lora.lora_dropout },
            dice: dice.clone(),
            norms: Mutex::new(norms),
        })
    }

    /// Another one on the same module, with these matrices.
    pub fn like(&self, a: Slot, b: Slot, scaling: f64) -> Self {
        Self {
            path: self.path.clone(),
            weight: self.weight,
            kind: self.kind,
            scaling,
            a,
            b,
            bias: None,
            magnitude: None,
            dropout: self.dropout,
            dice: self.dice.clone(),
            norms: Mutex::default(),
        }
    }

    /// Its tensors.
    pub fn slots(&self) -> impl Iterator<Item = &Slot> {
        [&self.a, &self.b].into_iter().chain(&self.bias).chain(&self.magnitude)
    }

    /// `s · (B · A · x + b)`
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    fn increment(&self, x: Tensor<2>) -> Tensor<2> {
        let narrow = tx_kernels::linear(x, self.a.get(), None, None); // [rows, rank]
        let bias = self.bias.as_ref().map(|bias| bias.get::<1>() * self.scaling);
        tx_kernels::linear(narrow * self.scaling, self.b.get(), bias, None)
    }

    /// What becomes of the result of the layer.
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - result, output: `[rows, out]`
    fn forward(&self, x: Tensor<2>, result: Tensor<2>, base: &LinearBase) -> Tensor<2> {
        let dropped = self.dice.dropped(&x, self.dropout);
        let Some(magnitude) = &self.magnitude else { return result + self.increment(dropped.unwrap_or(x)) };
        let scale = self.stretch(magnitude, base).cast(result.dtype());
        let without_bias = match (&dropped, base.bias()) {
            (Some(x), _) => base.product(x.clone()),
            (None, Some(bias)) => result.clone() - bias.clone().unsqueeze::<2>(),
            (None, None) => result.clone(),
        };
        let increment = self.increment(dropped.unwrap_or(x));
        result + without_bias * (scale.clone() - 1.0) + increment * scale
    }

    /// What becomes of rows of a table.
    ///
    /// # Shapes
    /// - ids: `[n]`
    /// - result, output: `[n, hidden]`
    fn rows(&self, ids: Tensor<1, Int>, result: Tensor<2>, base: &LinearBase) -> Tensor<2> {
        let narrow = self.a.get::<2>().select(1, ids).transpose(); // [n, rank]
        let increment = tx_kernels::linear(narrow * self.scaling, self.b.get(), None, None).cast(result.dtype());
        let sum = result + increment;
        match &self.magnitude {
            Some(magnitude) => {
                let scale = self.stretch(magnitude, base).cast(sum.dtype());
                sum * scale
            }
            None => sum,
        }
    }

    /// What rows are multiplied with: `[1, out]`. As in the paper, their own lengths are constants of the derivative.
    fn stretch(&self, magnitude: &Slot, base: &LinearBase) -> Tensor<2> {
        let mut norms = self.norms.lock().unwrap_or_else(PoisonError::into_inner);
        (magnitude.get::<1>() / norms.of(&self.a, &self.b, self.scaling, base)).unsqueeze()
    }

    /// The weight of a layer with the adapter in it.
    ///
    /// # Shapes
    /// - weight, output: `[out, in]`, in f32
    pub fn merged(&self, weight: Tensor<2>, base: &LinearBase) -> Tensor<2> {
        let sum = weight + self.delta();
        match &self.magnitude {
            Some(magnitude) => sum * self.stretch(magnitude, base).without_autodiff().transpose(),
            None => sum,
        }
    }

    /// `s · B · A`
    ///
    /// # Shapes
    /// - output: `[out, in]`
    pub fn delta(&self) -> Tensor<2> {
        self.b.constant::<2>().matmul(self.a.constant::<2>()) * self.scaling
    }
}

impl Norms {
    /// The lengths of the rows of `W + s · B · A`: `[out]`.
    ///
    /// The square of one is `‖w‖² + 2 s b · A · w + s² b · A · Aᵀ · b`, so that there is no matrix as large as `W`.
    fn of(&mut self, a: &Slot, b: &Slot, scaling: f64, base: &LinearBase) -> Tensor<1> {
        let versions = [a.version(), b.version()];
        if let Some((known, lengths)) = &self.lengths
            && *known == versions
        {
            return lengths.clone();
        }
        let sum = |x: Tensor<2>| x.sum_dim(1).squeeze_dim::<1>(1);
        let squares = self.squares.get_or_insert_with(|| {
            let weight = base.dense();
            sum(weight.clone() * weight)
        });
        let (a, b) = (a.constant::<2>(), b.constant::<2>());
        let across = sum(b.clone() * base.exact_product(a.clone()).transpose());
        let own = sum(b.clone().matmul(a.clone().matmul(a.transpose())) * b);
        let lengths = (squares.clone() + across * (2.0 * scaling) + own * (scaling * scaling)).clamp_min(0.0).sqrt();
        self.lengths = Some((versions, lengths.clone()));
        lengths
    }
}

/// All that LoRA does to one layer: several, one after another.
#[derive(Debug)]
pub struct LoraStack(pub Vec<Arc<Lora>>);

impl LinearAdapter for LoraStack {
    fn forward(&self, x: Tensor<2>, base: &mut LinearBase) -> Tensor<2> {
        let result = base.output(x.clone());
        self.0.iter().fold(result, |result, lora| lora.forward(x.clone(), result, base))
    }
}

impl EmbeddingAdapter for LoraStack {
    fn rows(&self, ids: Tensor<1, Int>, table: Tensor<2>) -> Tensor<2> {
        let base = LinearBase::new(table.clone(), None, true);
        let result = tx_kernels::embedding(table, ids.clone());
        self.0.iter().fold(result, |result, lora| lora.rows(ids.clone(), result, &base))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use tx_core::task::AnyTensor;

    use super::super::slot::Draw;
    use super::*;

    fn slot(name: &str, tensor: AnyTensor) -> Slot {
        Slot::new(name.into(), "Linear", tensor)
    }

    fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
        x.into_data().iter::<f32>().collect()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4), "{a:?} {b:?}");
    }

    fn dora(scaling: f64, dice: &Arc<Dice>) -> Lora {
        let mut draw = Draw::new(3, 0, &Device::default());
        let mut next = |name: &str, shape: &[usize]| slot(name, draw.normal(shape, 1.0));
        let (a, b, magnitude) = (next("a", &[2, 5]), next("b", &[4, 2]), next("m", &[4]));
        Lora {
            path: "x".into(),
            weight: ParamId::new(),
            kind: Kind::Linear,
            scaling,
            a,
            b,
            bias: None,
            magnitude: Some(magnitude),
            dropout: 0.0,
            dice: dice.clone(),
            norms: Mutex::default(),
        }
    }

    #[test]
    fn lengths_are_those_of_the_sum_and_follow_the_matrices() {
        let device = Device::default();
        let lora = dora(0.7, &Arc::default());
        let weight: Tensor<2> = Draw::new(4, 0, &device).normal(&[4, 5], 1.0).to();
        let base = LinearBase::new(weight.clone(), None, false);
        for _ in 0..2 {
            let sum = weight.clone() + lora.delta();
            let expected = values((sum.clone() * sum).sum_dim(1).sqrt().squeeze_dim::<1>(1));
            let mut norms = lora.norms.lock().unwrap();
            close(&values(norms.of(&lora.a, &lora.b, 0.7, &base)), &expected);
            drop(norms);
            lora.b.replace(Draw::new(5, 0, &device).normal(&[4, 2], 1.0));
        }
    }

    #[test]
    fn merged_is_what_the_layer_computes_either_way_round() {
        let device = Device::default();
        let lora = Arc::new(dora(0.5, &Arc::default()));
        let weight: Tensor<2> = Draw::new(4, 0, &device).normal(&[4, 5], 1.0).to();
        let bias: Tensor<1> = Draw::new(6, 0, &device).normal(&[4], 1.0).to();
        let x: Tensor<2> = Draw::new(7, 0, &device).normal(&[3, 5], 1.0).to();
        let merged = lora.merged(weight.clone(), &LinearBase::new(weight.clone(), None, false));
        let expected = values(tx_kernels::linear(x.clone(), merged, Some(bias.clone()), None));
        let stack = LoraStack(vec![lora]);
        for transposed in [false, true] {
            let weight = if transposed { weight.clone().transpose() } else { weight.clone() };
            let mut base = LinearBase::new(weight, Some(bias.clone()), transposed);
            close(&values(stack.forward(x.clone(), &mut base)), &expected);
        }
    }

    #[test]
    fn dropout_is_of_training_alone() {
        let device = Device::default();
        let dice = Arc::new(Dice::default());
        let lora = Lora { dropout: 0.5, magnitude: None, ..dora(0.5, &dice) };
        let stack = LoraStack(vec![Arc::new(lora)]);
        let run = || {
            let base = &mut LinearBase::new(Tensor::zeros([4, 5], &device), None, false);
            values(LinearAdapter::forward(&stack, Tensor::ones([3, 5], &device), base))
        };
        let plain = run();
        assert!(plain == run() && plain[..4] == plain[4..8]);
        dice.set_training(true);
        let (first, second) = (run(), run());
        assert!(first != second && first != plain);
        dice.set_training(false);
        assert_eq!(run(), plain);
    }
}
