//! IA3: a factor for each output of a layer, or for each input.
//!
//! Reference: peft 0.21.2, `tuners/ia3/layer.py`.

use std::sync::Arc;

use burn::module::ParamId;
use burn::tensor::Tensor;
use tx_core::error::{Error, Result};
use tx_core::nn::adapter::{LinearAdapter, LinearBase};

use super::config::{Ia3Config, PeftConfig};
use super::files::{PREFIX, Source, Want};
use super::modules::{Kind, Module, is_feedforward};
use super::slot::Slot;

/// The factors of one layer.
#[derive(Debug)]
pub struct Ia3 {
    /// The module that they are on.
    pub path: String,
    /// The weight of that.
    pub weight: ParamId,
    /// What kind of module it is.
    pub kind: Kind,
    /// Whether inputs are scaled, and not outputs.
    pub feedforward: bool,
    /// `[1, in]` or `[out, 1]`
    pub factors: Slot,
}

impl Ia3 {
    /// Those of a module, with the tensor from `source`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a module that is no linear layer, [`Error::Config`] for patterns.
    pub fn new(config: &PeftConfig, ia3: &Ia3Config, module: &Module, source: &mut dyn Source) -> Result<Self> {
        let Some((kind @ (Kind::Linear | Kind::Transposed), weight)) = module.kind() else {
            return Err(Error::Unsupported {
                path: config.path().to_path_buf(),
                key: "target_modules".into(),
                value: module.path.clone(),
                supported: "linear layers".into(),
            });
        };
        let feedforward = is_feedforward(config.path(), ia3.feedforward_modules.as_ref(), &module.path)?;
        let [input, output] = kind.sizes(&weight.tensor);
        let shape = if feedforward { [1, input] } else { [output, 1] };
        let ones = ia3.init_ia3_weights;
        let factors = source.make(Want {
            key: format!("{PREFIX}{}.ia3_l", module.path),
            layer: "Linear",
            shape: shape.to_vec(),
            keep_dtype: false,
            begin: Box::new(move |draw| if ones { draw.constant(&shape, 1.0) } else { draw.normal(&shape, 1.0) }),
        });
        Ok(Self { path: module.path.clone(), weight: weight.id, kind, feedforward, factors })
    }

    /// The weight of a layer with the factors in it.
    ///
    /// # Shapes
    /// - weight, output: `[out, in]`
    pub fn merged(&self, weight: Tensor<2>) -> Tensor<2> {
        weight * self.factors.constant::<2>()
    }

    /// The bias of a layer with the factors in it.
    ///
    /// # Shapes
    /// - bias, output: `[out]`
    pub fn merged_bias(&self, bias: Tensor<1>) -> Tensor<1> {
        if self.feedforward { bias } else { bias * self.factors.constant::<2>().squeeze_dim::<1>(1) }
    }
}

/// All factors of one layer, which are multiplied.
#[derive(Debug)]
pub struct Ia3Stack(pub Vec<Arc<Ia3>>);

impl LinearAdapter for Ia3Stack {
    fn forward(&self, x: Tensor<2>, base: &mut LinearBase) -> Tensor<2> {
        let row = |ia3: &Arc<Ia3>| {
            let [rows, columns] = ia3.factors.get::<2>().dims();
            ia3.factors.get::<2>().reshape([1, rows * columns])
        };
        let product = |feedforward: bool| {
            let all = self.0.iter().filter(|ia3| ia3.feedforward == feedforward).map(row);
            all.reduce(|product, factors| product * factors)
        };
        let result = match product(true) {
            Some(factors) => {
                let dtype = x.dtype();
                base.apply(x * factors.cast(dtype))
            }
            None => base.output(x),
        };
        match product(false) {
            Some(factors) => {
                let dtype = result.dtype();
                result * factors.cast(dtype)
            }
            None => result,
        }
    }

    fn wants_output(&self) -> bool {
        self.0.iter().all(|ia3| !ia3.feedforward)
    }
}
