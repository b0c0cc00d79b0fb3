//! The sum of gradients over all ranks, some parameters at a time.
//!
//! A bucket has 25 MiB, as that of PyTorch's `DistributedDataParallel`: few enough of them for a slow network, and
//! small enough that one is filled while another travels. Two are in memory at a time.

use tx_core::error::Result;

use super::{Communicator, Pending};
use crate::parameters::Gradients;

/// The most elements of a bucket that has more than one parameter.
const ELEMENTS: usize = (25 << 20) / size_of::<f32>();

/// Adds up the gradients of all ranks: every rank then has the sums.
///
/// A parameter has a gradient then if it has one on some rank. A rank whose part of the batch is empty has none at all.
///
/// # Errors
/// [`tx_core::Error::Distributed`]. Some of the gradients are lost then, and no parameter has changed.
pub fn all_reduce_gradients(ranks: &dyn Communicator, gradients: &mut Gradients) -> Result<()> {
    in_buckets(ranks, gradients, ELEMENTS)
}

/// The same with buckets of another size.
pub(super) fn in_buckets(ranks: &dyn Communicator, gradients: &mut Gradients, most: usize) -> Result<()> {
    if ranks.size() == 1 {
        return Ok(());
    }
    gradients.in_buckets::<Pending>(most, &mut |values| ranks.all_reduce(values), &mut Pending::wait)
}
