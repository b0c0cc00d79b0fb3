//! Attention to one small vector of each token: DeepSeek-AI, 2024 (arXiv:2405.04434), section 2.1.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use tx_core::Result;
use tx_core::config::Check;
use tx_core::nn::{
    AttentionOptions, HeadWeights, KvTensor, LayerCache, Linear, Mask, RmsNorm, RopeTable, attention, merge_heads,
    split_heads,
};
use tx_core::task::Record;

use super::DeepseekV3Config;

/// The epsilon of the norms of latent vectors, whatever the config says.
const LATENT_EPS: f64 = 1e-6;

/// How many heads there are, and how wide their parts are.
#[derive(Debug, Clone, Copy)]
pub(super) struct LatentHeads {
    pub(super) count: usize,
    pub(super) latent: usize,
    pub(super) plain: usize,
    pub(super) rotated: usize,
    pub(super) value: usize,
}

impl LatentHeads {
    pub(super) fn validate(self, check: &Check<'_>) -> Result<()> {
        let Self { count, latent, plain, rotated, value } = self;
        check.sizes([
            ("num_attention_heads", count),
            ("kv_lora_rank", latent),
            ("qk_nope_head_dim", plain),
            ("qk_rope_head_dim", rotated),
            ("v_head_dim", value),
        ])?;
        // No overflow: each of them is bounded by now.
        let widest = plain + rotated.max(value);
        check.size("num_attention_heads · (qk_nope_head_dim + …)", count.saturating_mul(widest))?;
        check.size("kv_lora_rank + qk_rope_head_dim", latent + rotated)
    }

    /// Whether queries meet latent vectors with fewer products than keys of heads, which have to be made first.
    fn absorb(self, queries: usize, keys: usize) -> bool {
        let [queries, keys, latent] = [queries, keys, self.latent].map(|count| count as f64);
        let projected = (self.plain + self.value) as f64;
        // Of each head. What is rotated is the same either way.
        queries * (2.0 * latent * keys + projected * latent) < keys * (projected * queries + projected * latent)
    }
}

/// Attention with keys and values from one latent vector of each token, and a rotated part of the keys beside it.
///
/// These two are what the cache keeps. Where few queries see many tokens, the vectors themselves are keys and values:
/// `kv_b_proj` is absorbed by queries and outputs.
#[derive(Module, Debug)]
pub(super) struct Attention {
    queries: Queries,
    kv_a_proj_with_mqa: Linear,
    kv_a_layernorm: RmsNorm,
    kv_b_proj: Linear,
    o_proj: Linear,
    #[module(skip)]
    heads: LatentHeads,
    #[module(skip)]
    scale: f64,
}

impl Attention {
    pub(super) fn new(config: &DeepseekV3Config, device: &Device) -> Self {
        let heads = config.heads();
        let LatentHeads { count, latent, plain, rotated, value } = heads;
        let (hidden, bias) = (config.hidden_size, config.attention_bias);
        Self {
            queries: Queries::new(config, device),
            kv_a_proj_with_mqa: Linear::new(hidden, latent + rotated, bias, device),
            kv_a_layernorm: RmsNorm::new(latent, LATENT_EPS, device),
            kv_b_proj: Linear::new(latent, count * (plain + value), false, device),
            o_proj: Linear::new(count * value, hidden, bias, device),
            heads,
            scale: config.scale(),
        }
    }

    pub(super) fn forward(
        &self,
        x: Tensor<3>,
        rope: &RopeTable,
        mask: &Mask,
        cache: &mut LayerCache,
        record: &mut Record,
    ) -> Tensor<3> {
        let LatentHeads { count, latent, plain, rotated, .. } = self.heads;
        let q = split_heads(self.queries.forward(x.clone()), count); // [batch, seq, heads, plain + rotated]
        let (q, q_rotated) = (q.clone().narrow(3, 0, plain), q.narrow(3, plain, rotated));
        let kv = self.kv_a_proj_with_mqa.forward(x); // [batch, seq, latent + rotated]
        let (kv, k_rotated) = (kv.clone().narrow(2, 0, latent), kv.narrow(2, latent, rotated));
        // Neighbours stay in place, where HF moves them to the halves of queries and keys alike: no score differs.
        let (q_rotated, k_rotated) = (rope.apply(q_rotated), rope.apply(split_heads(k_rotated, 1)));
        let kv = split_heads(self.kv_a_layernorm.forward(kv), 1);
        let (kv, k_rotated) = cache.append(kv, k_rotated); // [batch, keys, 1, latent], [batch, keys, 1, rotated]
        let options = AttentionOptions { scale: Some(self.scale), ..AttentionOptions::new(mask) };
        let absorb = self.heads.absorb(q.dims()[1], kv.dims()[1]);
        let context = match absorb.then(|| self.kv_b_proj.by_heads(count)).flatten() {
            Some(weights) => self.absorbed(&weights, [q, q_rotated], kv, k_rotated, options, record),
            None => self.expanded([q, q_rotated], kv, k_rotated, options, record),
        };
        self.o_proj.forward(merge_heads(context))
    }

    /// With keys and values of all heads.
    fn expanded(
        &self,
        q: [Tensor<4>; 2],
        kv: KvTensor,
        k_rotated: KvTensor,
        options: AttentionOptions<'_>,
        record: &mut Record,
    ) -> Tensor<4> {
        let LatentHeads { count, plain, rotated, value, .. } = self.heads;
        let [batch, keys, ..] = kv.dims();
        let kv = split_heads(self.kv_b_proj.forward(merge_heads(kv.float())), count);
        let (k, v) = (kv.clone().narrow(3, 0, plain), kv.narrow(3, plain, value));
        let k_rotated = k_rotated.float().expand([batch, keys, count, rotated]);
        attention(Tensor::cat(q.into(), 3), Tensor::cat(vec![k, k_rotated], 3), v, options, record)
    }

    /// With the latent vectors as keys and values of all heads at once: equations 9 to 11 of the paper with the weights
    /// multiplied in another order, `(q·W)·c = q·(W·c)`.
    fn absorbed(
        &self,
        kv_b_proj: &HeadWeights,
        [q, q_rotated]: [Tensor<4>; 2],
        kv: KvTensor,
        k_rotated: KvTensor,
        options: AttentionOptions<'_>,
        record: &mut Record,
    ) -> Tensor<4> {
        let LatentHeads { count, plain, rotated, value, .. } = self.heads;
        let ([batch, seq, ..], keys) = (q.dims(), kv.dims()[1]);
        // The rotated part of the scores comes to the rest as their bias.
        let k_rotated = k_rotated.float().reshape([batch, keys, rotated]).swap_dims(1, 2);
        let scores = q_rotated.reshape([batch, seq * count, rotated]).matmul(k_rotated) * self.scale;
        let bias = scores.reshape([batch, seq, count, keys]).swap_dims(1, 2); // [batch, heads, seq, keys]
        let options = AttentionOptions { bias: Some(bias), ..options };
        let q = kv_b_proj.forward_transposed(q, 0..plain); // [batch, seq, heads, latent]
        let context = attention(q, kv.clone(), kv, options, record); // [batch, seq, heads, latent]
        kv_b_proj.forward(context, plain..plain + value)
    }
}

/// Where queries come from.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one for each layer, beside tensors that are far larger")]
enum Queries {
    /// From the hidden state.
    Direct(Linear),
    /// From a smaller vector.
    Latent(LatentQueries),
}

#[derive(Module, Debug)]
struct LatentQueries {
    q_a_proj: Linear,
    q_a_layernorm: RmsNorm,
    q_b_proj: Linear,
}

impl Queries {
    fn new(config: &DeepseekV3Config, device: &Device) -> Self {
        let LatentHeads { count, plain, rotated, .. } = config.heads();
        let (hidden, output) = (config.hidden_size, count * (plain + rotated));
        match config.q_lora_rank {
            None => Self::Direct(Linear::new(hidden, output, false, device)),
            Some(rank) => Self::Latent(LatentQueries {
                q_a_proj: Linear::new(hidden, rank, config.attention_bias, device),
                q_a_layernorm: RmsNorm::new(rank, LATENT_EPS, device),
                q_b_proj: Linear::new(rank, output, false, device),
            }),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self {
            Self::Direct(q_proj) => q_proj.forward(x),
            Self::Latent(LatentQueries { q_a_proj, q_a_layernorm, q_b_proj }) => {
                q_b_proj.forward(q_a_layernorm.forward(q_a_proj.forward(x)))
            }
        }
    }
}
