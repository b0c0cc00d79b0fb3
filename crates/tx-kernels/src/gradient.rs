//! Derivatives of the fast bodies for `Flex`, so that training has their speed.
//!
//! An operation on tensors that autodiff tracks computes its result with the fast body, from the values alone, and adds
//! one step to autodiff's graph: a function from the gradient of the result to those of the inputs. What the function
//! needs is held, not copied; what is cheap to compute, it computes again. For inputs that nothing tracks it neither keeps
//! nor computes anything. What a fast body does not take, autodiff differentiates through the reference body.
//!
//! | file | holds the derivatives of |
//! |---|---|
//! | `activation.rs` | [`crate::Pointwise::forward`], [`crate::gated`], [`crate::softmax`] |
//! | `attention.rs` | [`crate::attention`] |
//! | `embedding.rs` | [`crate::embedding`] |
//! | `linear.rs` | [`crate::linears`], [`crate::linear_transposed`] |
//! | `loss.rs` | [`crate::cross_entropy`] |
//! | `norm.rs` | [`crate::layer_norm`], [`crate::rms_norm`] |
//! | `rotary.rs` | [`crate::rotary`] |

mod activation;
mod attention;
mod embedding;
mod linear;
mod loss;
mod norm;
mod rotary;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{BalancedCheckpointing, CheckpointStrategy, NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::kind::Basic;
use burn::tensor::{GradientCheckpointingStrategy, Tensor};

pub use self::activation::{gated, pointwise, softmax};
pub use self::attention::attention;
pub use self::embedding::embedding;
pub use self::linear::{linear_transposed, linears};
pub use self::loss::cross_entropy;
pub use self::norm::norm;
pub use self::rotary::rotary;
use crate::reference;

/// A float tensor as autodiff has it.
type Tracked = FloatTensor<Autodiff<Flex>>;

/// From the gradient of a result to those of the inputs that are tracked.
type Pass<const N: usize> = Box<dyn FnOnce(FlexTensor) -> [Option<FlexTensor>; N] + Send>;

/// Where an input stands in autodiff's graph; nowhere if it is a constant.
#[derive(Debug, Clone, Default)]
struct Place(Option<(Tracked, GradientCheckpointingStrategy)>);

impl Place {
    fn is_constant(&self) -> bool {
        self.0.is_none()
    }
}

/// The value of a tensor on `Flex`, and its place in the graph; `None` on another device.
fn split<const D: usize, K: Basic>(x: &Tensor<D, K>) -> Option<(Tensor<D, K>, Place)> {
    if reference() {
        return None;
    }
    let DispatchTensor { kind, autodiff } = x.clone().into_dispatch();
    let kind = match kind {
        DispatchTensorKind::Autodiff(inner) => *inner,
        kind => kind,
    };
    let DispatchTensorKind::Flex(held) = kind else { return None };
    let (held, place) = match (held, autodiff) {
        (BackendTensor::Autodiff(tensor), DispatchAutodiffContext::Enabled(strategy)) => {
            (BackendTensor::Float(tensor.primitive().clone()), Place(Some((tensor, strategy))))
        }
        (BackendTensor::Autodiff(_), DispatchAutodiffContext::Disabled) => return None,
        // Integers, truth values and quantized weights have no gradients.
        (held, _) => (held, Place::default()),
    };
    let kind = DispatchTensorKind::Flex(held);
    Some((Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Disabled }), place))
}

/// [`split`] of a tensor that may be missing.
fn split_given<const D: usize>(x: Option<&Tensor<D>>) -> Option<(Option<Tensor<D>>, Place)> {
    match x {
        Some(x) => split(x).map(|(x, place)| (Some(x), place)),
        None => Some((None, Place::default())),
    }
}

/// The inputs of an operation, some of which autodiff knows.
struct Graph<const N: usize> {
    places: [Place; N],
    strategy: GradientCheckpointingStrategy,
}

impl<const N: usize> Graph<N> {
    /// `None` if all inputs are constants, or if they are of graphs that cannot be joined.
    fn of(places: [Place; N]) -> Option<Self> {
        let mut strategies = places.iter().filter_map(|place| Some(place.0.as_ref()?.1));
        let strategy = strategies.next()?;
        let same = strategies.all(|other| other == strategy);
        same.then_some(Self { places, strategy })
    }

    /// Which inputs want a gradient.
    fn wanted(&self) -> [bool; N] {
        self.places.each_ref().map(|place| place.0.as_ref().is_some_and(|(tensor, _)| tensor.is_tracked()))
    }

    /// The result of the operation as a tensor of the graph. `pass` gives the gradients of the inputs that want one.
    fn record<const D: usize>(
        self,
        result: FlexTensor,
        pass: impl FnOnce(FlexTensor) -> [Option<FlexTensor>; N] + Send + 'static,
    ) -> Tensor<D> {
        #[cfg(test)]
        tests::count_step();
        let strategy = self.strategy;
        let result = match strategy {
            GradientCheckpointingStrategy::Disabled => self.register::<NoCheckpointing>(result, Box::new(pass)),
            GradientCheckpointingStrategy::Balanced => self.register::<BalancedCheckpointing>(result, Box::new(pass)),
        };
        let kind = DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(BackendTensor::Autodiff(result))));
        Tensor::from_dispatch(DispatchTensor { kind, autodiff: DispatchAutodiffContext::Enabled(strategy) })
    }

    fn register<C: CheckpointStrategy>(self, result: FlexTensor, pass: Pass<N>) -> Tracked {
        let nodes = self.places.map(|Place(place)| match place {
            Some((tensor, _)) => tensor.node(),
            // Of any tensor that nothing tracks.
            None => <Autodiff<Flex> as AutodiffBackend>::from_inner(result.clone()).node(),
        });
        match <Operation as Backward<Flex, N>>::prepare::<C>(Operation, nodes).compute_bound().stateful() {
            OpsKind::Tracked(step) => step.finish(State(Arc::new(Mutex::new(Some(pass)))), result),
            OpsKind::UnTracked(step) => step.finish(result),
        }
    }
}

/// The step of any operation: what it does is its state.
#[derive(Debug)]
struct Operation;

/// The function of a step. It is called once, and what it holds is its own then.
#[derive(Clone)]
struct State<const N: usize>(Arc<Mutex<Option<Pass<N>>>>);

impl<const N: usize> fmt::Debug for State<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

impl<const N: usize> Backward<Flex, N> for Operation {
    type State = State<N>;

    fn backward(self, ops: Ops<State<N>, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let pass = ops.state.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(pass) = pass else { return };
        for (parent, gradient) in ops.parents.into_iter().zip(pass(gradient)) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
