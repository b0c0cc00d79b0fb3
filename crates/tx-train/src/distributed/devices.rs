//! One rank for each device of this machine: `tx train --devices`.
//!
//! This is what burn's `ExecutionStrategy::ddp` does, on the same exchange (NCCL, by `burn::tensor::distributed`),
//! without the loop around it: that belongs to `burn-train`, which brings a terminal interface and another selection of
//! burn's features with it, and has its own form of models. Here a rank is a thread, with a model of its own on its own
//! device, and the same [`Communicator`] as a process has.
//!
//! Devices other than CUDA's have no such exchange in burn 0.22, and their ranks add up in memory. A rank that ends
//! without [`super::agree`] leaves the others waiting for it in NCCL, which has no time-out here. The exchange by NCCL
//! has been compiled and never run: it wants a machine with several such GPUs.

use std::thread;

use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{DType, Device, Tensor, TensorData};
use tx_core::device;
use tx_core::error::{Error, Result};

use super::threads::Threads;
use super::{Communicator, Pending, REMEDY};

/// Runs the same on every device, all of one kind: `train` gets the device and the rank that goes with it, and builds its
/// own model and data.
///
/// # Errors
/// The first error of a rank; [`Error::Distributed`] if one panics.
pub fn on_devices<T: Send>(
    devices: &[Device],
    train: impl Fn(&Device, Box<dyn Communicator>) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let train = &train;
    let exchange = devices.iter().all(device::is_cuda).then_some(devices);
    thread::scope(|scope| {
        let ranks = Threads::start(devices.len());
        let ranks: Vec<_> = ranks
            .into_iter()
            .map(|threads| {
                scope.spawn(move || {
                    let own = &devices[threads.rank()];
                    let exchange = exchange.map(|all| Exchange { own: own.clone(), all: all.to_vec() });
                    train(own, Box::new(OnDevice { threads, exchange }))
                })
            })
            .collect();
        let ended = ranks.into_iter().map(|rank| rank.join()).enumerate();
        ended.map(|(rank, result)| result.unwrap_or_else(|_| Err(panicked(rank)))).collect()
    })
}

fn panicked(rank: usize) -> Error {
    Error::distributed(Some(rank), "it has panicked", REMEDY)
}

/// The rank of a device. Buckets are added up by the GPUs where they can, and what is small by the threads.
#[derive(Debug)]
struct OnDevice {
    threads: Threads,
    /// `None` if the devices have none of their own.
    exchange: Option<Exchange>,
}

/// The device of a rank, and those of all, which add up by NCCL.
#[derive(Debug)]
struct Exchange {
    own: Device,
    all: Vec<Device>,
}

impl Communicator for OnDevice {
    fn rank(&self) -> usize {
        self.threads.rank()
    }

    fn size(&self) -> usize {
        self.threads.size()
    }

    fn all_reduce(&self, values: Vec<f32>) -> Result<Pending> {
        let Some(Exchange { own, all }) = &self.exchange else { return self.threads.all_reduce(values) };
        let len = values.len();
        let bucket = Tensor::<1>::from_data(TensorData::new(values, [len]), (own, DType::F32));
        let sums = all_reduce(bucket, ReduceOperation::Sum, all.clone());
        let rank = self.rank();
        Ok(Pending::new(move || {
            let sums = sums.resolve().try_into_vec_as::<f32>();
            sums.map_err(|error| Error::distributed(Some(rank), error, REMEDY))
        }))
    }

    fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.threads.sum(values)
    }

    fn broadcast(&self, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.threads.broadcast(root, bytes)
    }

    fn finish(&self) -> Result<()> {
        self.threads.finish()
    }
}
