//! Rows of a table by number.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::adapter;
use super::{INITIALIZER_RANGE, normal};

/// A table of vectors, looked up by id. The table keeps the checkpoint's dtype; the rows come out in the device's.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[rows, hidden]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `rows` vectors of `hidden` elements.
    pub fn new(rows: usize, hidden: usize, device: &Device) -> Self {
        Self { weight: normal([rows, hidden], INITIALIZER_RANGE, device) }
    }

    /// # Shapes
    /// - ids: `[batch, seq]`, each below the number of rows
    /// - output: `[batch, seq, hidden]`
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, seq] = ids.dims();
        let rows = self.rows(ids.reshape([batch * seq]));
        let hidden = rows.dims()[1];
        rows.reshape([batch, seq, hidden])
    }

    /// # Shapes
    /// - ids: `[n]`, each below the number of rows
    /// - output: `[n, hidden]`
    pub fn rows(&self, ids: Tensor<1, Int>) -> Tensor<2> {
        let table = self.weight.val();
        match adapter::of_embedding(self.weight.id) {
            Some(adapter) => adapter.rows(ids, table),
            None => tx_kernels::embedding(table, ids),
        }
    }
}
