//! The embeddings and layers of DeBERTa-v2: He et al., 2020 (arXiv:2006.03654), section 3.1.

use burn::module::Module;
use burn::nn::PaddingConfig1d;
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use tx_core::nn::{
    Activation, AttentionOptions, Embedding, LayerNorm, Linear, Mask, attention, merge_heads, project, split_heads,
};
use tx_core::task::{Record, TextInputs};

use super::{DebertaV2Config, positive};

/// Word vectors, with absolute positions and token types where there are any, normalised, and zero at padding.
#[derive(Module, Debug)]
pub(super) struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Option<Embedding>,
    token_type_embeddings: Option<Embedding>,
    embed_proj: Option<Linear>,
    layer_norm: LayerNorm,
}

impl Embeddings {
    pub(super) fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let size = config.embedding_size();
        let table = |rows: usize| Embedding::new(rows, size, device);
        Self {
            word_embeddings: table(config.vocab_size),
            position_embeddings: config.position_biased_input.then(|| table(config.max_position_embeddings)),
            token_type_embeddings: (config.type_vocab_size > 0).then(|| table(config.type_vocab_size)),
            embed_proj: (size != config.hidden_size).then(|| Linear::new(size, config.hidden_size, false, device)),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    pub(super) fn forward(&self, inputs: &TextInputs, mask: &Mask) -> Tensor<3> {
        let mut x = self.word_embeddings.forward(inputs.input_ids.clone());
        if let Some(positions) = &self.position_embeddings {
            x = x + positions.forward(inputs.position_ids_or_range());
        }
        if let Some(types) = &self.token_type_embeddings {
            x = x + types.forward(inputs.token_type_ids_or_zeros());
        }
        if let Some(projection) = &self.embed_proj {
            x = projection.forward(x);
        }
        zero_padding(self.layer_norm.forward(x), mask)
    }
}

/// # Shapes
/// - x, output: `[batch, seq, hidden]`
fn zero_padding(x: Tensor<3>, mask: &Mask) -> Tensor<3> {
    match &mask.padding {
        Some(padding) => {
            let shape = x.shape();
            x.mask_fill(padding.clone().unsqueeze_dim::<3>(2).expand(shape), 0.0)
        }
        None => x,
    }
}

/// A stack of post-norm layers, with the vectors of relative positions that all of them share.
#[derive(Module, Debug)]
pub(super) struct Encoder {
    layer: Vec<Layer>,
    rel_embeddings: Option<Embedding>,
    layer_norm: Option<LayerNorm>,
    conv: Option<ConvLayer>,
    #[module(skip)]
    buckets: Buckets,
}

impl Encoder {
    pub(super) fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        let buckets = Buckets::new(config);
        let table = || Embedding::new(2 * buckets.span, config.hidden_size, device);
        Self {
            layer: (0..config.num_hidden_layers).map(|_| Layer::new(config, device)).collect(),
            rel_embeddings: config.relative_attention.then(table),
            layer_norm: config.norms_relative_positions().then(norm),
            conv: (config.conv_kernel_size > 0).then(|| ConvLayer::new(config, device)),
            buckets,
        }
    }

    pub(super) fn forward(&self, embeddings: Tensor<3>, mask: &Mask, record: &mut Record) -> Tensor<3> {
        let relative = self.relative(embeddings.dims()[1], &embeddings.device());
        record.hidden_state(&embeddings);
        let mut x = embeddings.clone();
        for (i, layer) in self.layer.iter().enumerate() {
            x = layer.forward(x, mask, relative.as_ref(), record);
            if let (0, Some(conv)) = (i, &self.conv) {
                x = conv.forward(embeddings.clone(), x, mask);
            }
            record.hidden_state(&x);
        }
        x
    }

    /// The relative positions in a text of `seq` tokens.
    fn relative(&self, seq: usize, device: &Device) -> Option<Relative> {
        let table = self.rel_embeddings.as_ref()?;
        let n = seq as i64;
        let rows: Vec<i64> = (1 - n..n).map(|distance| self.buckets.row(distance)).collect();
        // Short texts meet few of the rows; the layers project no others.
        let (first, last) = (*rows.iter().min()?, *rows.iter().max()?);
        let vectors = table.rows(Tensor::arange(first..last + 1, device));
        let columns: Vec<i64> = rows.into_iter().map(|row| row - first).collect();
        let columns = Tensor::<1, Int>::from_data(TensorData::new(columns, [2 * seq - 1]), device);
        let [query, key] = [1, 0].map(|axis| Tensor::<1, Int>::arange(0..n, device).unsqueeze_dim::<2>(axis));
        let distance = query.clone() - key.clone() + (n - 1);
        let column = columns.select(0, distance.reshape([seq * seq])).reshape([seq, seq]);
        let place = |token: Tensor<2, Int>| (token * (last - first + 1) + column.clone()).reshape([seq * seq]);
        Some(Relative {
            vectors: match &self.layer_norm {
                Some(norm) => norm.forward(vectors),
                None => vectors,
            },
            of_queries: place(query),
            of_keys: place(key),
        })
    }
}

/// Which vector a distance has: one of its own near by, further away one for many, logarithmically.
#[derive(Debug, Clone, Copy)]
struct Buckets {
    /// Half of the vectors: as many for each direction.
    span: usize,
    /// `position_buckets / 2`, up to which distances are themselves, and where the last bucket starts.
    log: Option<(usize, usize)>,
}

impl Buckets {
    fn new(config: &DebertaV2Config) -> Self {
        let (buckets, end) = (positive(config.position_buckets), config.max_relative_positions());
        Self { span: buckets.unwrap_or(end), log: buckets.map(|buckets| (buckets / 2, end)) }
    }

    /// The row of the vector for `distance = query − key`.
    fn row(self, distance: i64) -> i64 {
        let bucket = match self.log {
            Some((middle, end)) if distance.unsigned_abs() > middle as u64 => {
                // In f32, as the reference computes it: a bucket's border must fall where it falls there.
                let ratio = (distance.unsigned_abs() as f32 / middle as f32).ln();
                let ratio = ratio / ((((end - 1) as f64) / middle as f64) as f32).ln();
                let bucket = (ratio * (middle - 1) as f32).ceil() + middle as f32;
                (bucket as i64).saturating_mul(distance.signum())
            }
            _ => distance,
        };
        let span = self.span as i64;
        bucket.saturating_add(span).clamp(0, 2 * span - 1)
    }
}

/// The relative positions that occur in one text, for all layers.
struct Relative {
    vectors: Tensor<2>, // [rows, hidden]
    /// `[seq · seq]`: where each pair of a query and a key finds its distance in the scores `[seq · rows]` of queries.
    of_queries: Tensor<1, Int>,
    /// The same for the scores of keys, in the same order of pairs.
    of_keys: Tensor<1, Int>,
}

#[derive(Module, Debug)]
struct Layer {
    attention: Attention,
    intermediate: Intermediate,
    output: Output,
}

impl Layer {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        Self {
            attention: Attention {
                self_: SelfAttention::new(config, device),
                output: Output::new(config.hidden_size, config, device),
            },
            intermediate: Intermediate {
                dense: Linear::new(config.hidden_size, config.intermediate_size, true, device),
                act: config.hidden_act,
            },
            output: Output::new(config.intermediate_size, config, device),
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, relative: Option<&Relative>, record: &mut Record) -> Tensor<3> {
        let Self { attention, intermediate, output } = self;
        let x = attention.output.forward(attention.self_.forward(x.clone(), mask, relative, record), x);
        output.forward(intermediate.dense.forward_activated(x.clone(), intermediate.act), x)
    }
}

#[derive(Module, Debug)]
struct Attention {
    self_: SelfAttention,
    output: Output,
}

#[derive(Module, Debug)]
struct Intermediate {
    dense: Linear,
    #[module(skip)]
    act: Activation,
}

/// A projection back to the residual stream, and the norm after the sum.
#[derive(Module, Debug)]
struct Output {
    dense: Linear,
    layer_norm: LayerNorm,
}

impl Output {
    fn new(input: usize, config: &DebertaV2Config, device: &Device) -> Self {
        Self {
            dense: Linear::new(input, config.hidden_size, true, device),
            layer_norm: LayerNorm::new(config.hidden_size, config.layer_norm_eps, device),
        }
    }

    fn forward(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        self.layer_norm.forward_residual(self.dense.forward(x), residual)
    }
}

/// `softmax((q·kᵀ + q·Kᵀ + Q·kᵀ) / √(terms · head_dim)) · v`, where `K` and `Q` are projections of the vectors of
/// relative positions. Equation 4 of the paper; `c2p` and `p2c` switch the second and third term.
#[derive(Module, Debug)]
struct SelfAttention {
    query_proj: Linear,
    key_proj: Linear,
    value_proj: Linear,
    /// `None` where `key_proj` serves positions as well.
    pos_key_proj: Option<Linear>,
    pos_query_proj: Option<Linear>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    c2p: bool,
    #[module(skip)]
    p2c: bool,
}

impl SelfAttention {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        let (c2p, p2c) = (config.pos_att_type.has("c2p"), config.pos_att_type.has("p2c"));
        let own = config.relative_attention && !config.share_att_key;
        Self {
            query_proj: linear(),
            key_proj: linear(),
            value_proj: linear(),
            pos_key_proj: (own && c2p).then(linear),
            pos_query_proj: (own && p2c).then(linear),
            heads: config.num_attention_heads,
            c2p,
            p2c,
        }
    }

    fn forward(&self, x: Tensor<3>, mask: &Mask, relative: Option<&Relative>, record: &mut Record) -> Tensor<3> {
        let [q, k, v] =
            project(x, [&self.query_proj, &self.key_proj, &self.value_proj]).map(|x| split_heads(x, self.heads));
        // The terms count for the scale even where there is no relative attention.
        let terms = 1 + usize::from(self.c2p) + usize::from(self.p2c);
        let scale = 1.0 / ((terms * q.dims()[3]) as f64).sqrt();
        let bias = relative.and_then(|relative| self.bias(&q, &k, relative, scale));
        let options = AttentionOptions { scale: Some(scale), bias, ..AttentionOptions::new(mask) };
        merge_heads(attention(q, k, v, options, record))
    }

    /// The terms of the scores that know the distance.
    ///
    /// # Shapes
    /// - q, k: `[batch, seq, heads, head_dim]`
    /// - output: `[batch, heads, seq, seq]`
    fn bias(&self, q: &Tensor<4>, k: &Tensor<4>, relative: &Relative, scale: f64) -> Option<Tensor<4>> {
        let scores = |x: &Tensor<4>, projection: &Linear, places: &Tensor<1, Int>| {
            let vectors = projection.forward(relative.vectors.clone()) * scale;
            let vectors = split_heads(vectors.unsqueeze(), self.heads).permute([0, 2, 3, 1]);
            let scores = x.clone().swap_dims(1, 2).matmul(vectors); // [batch, heads, seq, rows]
            let [batch, heads, seq, rows] = scores.dims();
            // One index for all heads, where a gather along the last axis would read one per score.
            let scores = scores.reshape([batch * heads, seq * rows]).select(1, places.clone());
            scores.reshape([batch, heads, seq, seq])
        };
        let pos_key_proj = self.pos_key_proj.as_ref().unwrap_or(&self.key_proj);
        let pos_query_proj = self.pos_query_proj.as_ref().unwrap_or(&self.query_proj);
        let c2p = self.c2p.then(|| scores(q, pos_key_proj, &relative.of_queries));
        let p2c = self.p2c.then(|| scores(k, pos_query_proj, &relative.of_keys));
        c2p.into_iter().chain(p2c).reduce(|a, b| a + b)
    }
}

/// What near tokens say, beside the first layer: `norm(x + act(conv(embeddings)))`.
#[derive(Module, Debug)]
struct ConvLayer {
    conv: Conv1d,
    layer_norm: LayerNorm,
    #[module(skip)]
    act: Activation,
}

impl ConvLayer {
    fn new(config: &DebertaV2Config, device: &Device) -> Self {
        let (hidden, kernel) = (config.hidden_size, config.conv_kernel_size);
        let padding = PaddingConfig1d::Explicit(kernel / 2, kernel / 2);
        let conv = Conv1dConfig::new(hidden, hidden, kernel).with_groups(config.conv_groups).with_padding(padding);
        Self {
            conv: conv.init(device),
            layer_norm: LayerNorm::new(hidden, config.layer_norm_eps, device),
            act: config.conv_act,
        }
    }

    fn forward(&self, embeddings: Tensor<3>, x: Tensor<3>, mask: &Mask) -> Tensor<3> {
        let near = self.conv.forward(embeddings.swap_dims(1, 2)).swap_dims(1, 2);
        zero_padding(self.layer_norm.forward_residual(x, self.act.forward(near)), mask)
    }
}
