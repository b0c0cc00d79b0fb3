//! What a forward pass keeps besides its result.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use tx_kernels::KvTensor;

/// A hidden state of any layout.
#[derive(Debug, Clone)]
pub enum Features {
    /// `[batch, hidden]`
    Vector(Tensor<2>),
    /// `[batch, seq, hidden]`
    Sequence(Tensor<3>),
    /// `[batch, channels, height, width]`
    Map(Tensor<4>),
}

impl Features {
    /// The numbers, in the memory of the host.
    pub fn into_data(self) -> TensorData {
        match self {
            Self::Vector(x) => x.into_data(),
            Self::Sequence(x) => x.into_data(),
            Self::Map(x) => x.into_data(),
        }
    }

    /// Features of one layout, one after the other along the batch.
    pub(crate) fn join(parts: Vec<Self>) -> Self {
        let (mut vectors, mut sequences, mut maps) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            match part {
                Self::Vector(x) => vectors.push(x),
                Self::Sequence(x) => sequences.push(x),
                Self::Map(x) => maps.push(x),
            }
        }
        if !maps.is_empty() {
            Self::Map(Tensor::cat(maps, 0))
        } else if !sequences.is_empty() {
            Self::Sequence(Tensor::cat(sequences, 0))
        } else {
            Self::Vector(Tensor::cat(vectors, 0))
        }
    }
}

impl From<Tensor<2>> for Features {
    fn from(x: Tensor<2>) -> Self {
        Self::Vector(x)
    }
}

impl From<Tensor<3>> for Features {
    fn from(x: Tensor<3>) -> Self {
        Self::Sequence(x)
    }
}

impl From<Tensor<4>> for Features {
    fn from(x: Tensor<4>) -> Self {
        Self::Map(x)
    }
}

/// What a forward pass keeps besides its result, by HF's names.
///
/// In an encoder with a decoder, each says who it is by [`Record::within`]; `encoder_` makes `encoder_hidden_states`.
#[derive(Debug, Default)]
pub struct Record {
    hidden_states: bool,
    attentions: bool,
    part: &'static str,
    kept: BTreeMap<String, Vec<Features>>,
    /// Keys and values that come before those of each layer: see [`Record::set_prefix`].
    prefix: Vec<[Tensor<3>; 2]>,
    /// The next layer that gets some.
    next: usize,
}

impl Record {
    /// Keeps what is asked for.
    pub fn new(hidden_states: bool, attentions: bool) -> Self {
        Self { hidden_states, attentions, ..Self::default() }
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// An empty one that keeps the same.
    pub fn like(other: &Self) -> Self {
        let prefix = other.prefix.clone();
        Self { part: other.part, prefix, ..Self::new(other.hidden_states, other.attentions) }
    }

    /// From here on, keys and values come before those of each attention, layer by layer.
    ///
    /// # Shapes
    /// - layers: `[tokens, groups, head_dim]` each
    pub(crate) fn set_prefix(&mut self, layers: Vec<[Tensor<3>; 2]>) {
        (self.prefix, self.next) = (layers, 0);
    }

    /// Ends that; returns how many layers have got theirs.
    pub(crate) fn end_prefix(&mut self) -> usize {
        self.prefix.clear();
        std::mem::take(&mut self.next)
    }

    /// The keys and values of a layer behind those that come before them.
    ///
    /// # Shapes
    /// - k, v: `[batch, keys, groups, head_dim]`
    /// - output: `[batch, tokens + keys, groups, head_dim]`
    pub(crate) fn behind_prefix(&mut self, k: KvTensor, v: KvTensor) -> (KvTensor, KvTensor) {
        let Some([keys, values]) = self.prefix.get(self.next) else { return (k, v) };
        self.next += 1;
        let join = |before: &Tensor<3>, x: KvTensor| {
            let x = x.float();
            let ([batch, ..], [tokens, groups, dim]) = (x.dims(), before.dims());
            let before = before.clone().cast(x.dtype()).unsqueeze::<4>().expand([batch, tokens, groups, dim]);
            KvTensor::from(Tensor::cat(vec![before, x], 1))
        };
        (join(keys, k), join(values, v))
    }

    /// Whether attention maps are asked for.
    pub fn wants_attentions(&self) -> bool {
        self.attentions
    }

    /// Keeps one hidden state, if they were asked for: the embeddings first, then the output of every layer.
    ///
    /// # Shapes
    /// - x: `[batch, seq, hidden]` or `[batch, channels, height, width]`
    pub fn hidden_state<const D: usize>(&mut self, x: &Tensor<D>)
    where
        Tensor<D>: Into<Features>,
    {
        self.keep("hidden_states", x);
    }

    /// Keeps one hidden state in another layout, under a name of its own, if they were asked for.
    pub fn keep<const D: usize>(&mut self, name: &str, x: &Tensor<D>)
    where
        Tensor<D>: Into<Features>,
    {
        if self.hidden_states {
            self.push(name, x.clone().into());
        }
    }

    /// Keeps the attention weights of one layer, if they were asked for.
    ///
    /// # Shapes
    /// - weights: `[batch, heads, queries, keys]`
    pub fn attention(&mut self, weights: Tensor<4>) {
        if self.attentions {
            self.push("attentions", weights.into());
        }
    }

    /// Keeps what `pass` records under names that begin with `part`.
    pub fn within<T>(&mut self, part: &'static str, pass: impl FnOnce(&mut Self) -> T) -> T {
        let outer = std::mem::replace(&mut self.part, part);
        let result = pass(self);
        self.part = outer;
        result
    }

    /// What was kept under a name so far, in the order of the layers.
    pub fn kept(&self, name: &str) -> &[Features] {
        self.kept.get(name).map_or(&[], Vec::as_slice)
    }

    /// Everything by name and layer: `hidden_states.0` …
    pub fn into_named(self) -> impl Iterator<Item = (String, TensorData)> {
        self.kept.into_iter().flat_map(|(name, layers)| {
            layers.into_iter().enumerate().map(move |(layer, x)| (format!("{name}.{layer}"), x.into_data()))
        })
    }

    /// Joins what the passes over parts of a batch kept, layer by layer.
    pub(crate) fn join(&mut self, parts: Vec<Self>) {
        let mut layers: BTreeMap<String, Vec<Vec<Features>>> = BTreeMap::new();
        for part in parts {
            for (name, kept) in part.kept {
                let layers = layers.entry(name).or_default();
                layers.resize_with(layers.len().max(kept.len()), Vec::new);
                kept.into_iter().enumerate().for_each(|(layer, x)| layers[layer].push(x));
            }
        }
        for (name, layers) in layers {
            self.kept.entry(name).or_default().extend(layers.into_iter().map(Features::join));
        }
    }

    fn push(&mut self, name: &str, x: Features) {
        let name = format!("{}{name}", self.part);
        self.kept.entry(name).or_default().push(x);
    }
}
