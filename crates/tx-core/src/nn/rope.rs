//! Rotary position embeddings. Su et al., 2021 (arXiv:2104.09864), and what makes them reach further.
//!
//! Frequencies are computed in f32, as the reference does: positions multiply their error.

use burn::tensor::{Device, Int, Tensor};
use serde::Deserialize;
pub use tx_kernels::Pairs;

use crate::config::Check;
use crate::error::Result;

/// How frequencies are made: HF's `rope_parameters`, and the older `rope_scaling`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RopeParameters {
    /// Which of the kinds below; [`RopeParameters::rope_type`] resolves it.
    pub rope_type: Option<RopeType>,
    /// The older spelling, which `rope_type` wins over; files may have both.
    #[serde(rename = "type")]
    pub old_type: Option<String>,
    /// The base of the frequencies.
    pub rope_theta: Option<f64>,
    /// How much further than trained.
    pub factor: Option<f64>,
    /// The part of a head that is rotated.
    pub partial_rotary_factor: Option<f64>,
    /// How far the model was trained before it was made to reach further, in tokens.
    pub original_max_position_embeddings: Option<usize>,
    /// `llama3`: wavelengths from here on are stretched whole, in parts of the original length.
    pub low_freq_factor: Option<f64>,
    /// `llama3`: wavelengths up to here stay.
    pub high_freq_factor: Option<f64>,
    /// `yarn`: rotations over the original length from which on a frequency stays.
    pub beta_fast: Option<f64>,
    /// `yarn`: rotations up to which a frequency is stretched whole.
    pub beta_slow: Option<f64>,
    /// `yarn`: factors of the logarithm in the attention's temperature.
    pub mscale: Option<f64>,
    /// See `mscale`.
    pub mscale_all_dim: Option<f64>,
    /// `yarn` and `longrope`: what cosines and sines are multiplied by; follows from the factor if `None`.
    pub attention_factor: Option<f64>,
    /// `yarn`: whether the ramp begins and ends at whole pairs.
    pub truncate: Option<bool>,
    /// `longrope`: divisors of the frequencies of sequences up to the original length, and of longer ones.
    pub short_factor: Option<Vec<f64>>,
    /// See `short_factor`.
    pub long_factor: Option<Vec<f64>>,
}

/// Kinds of frequencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RopeType {
    /// `theta^(-2i/n)`.
    #[default]
    Default,
    /// All divided by one factor: positions are interpolated.
    Linear,
    /// A base that grows with the sequence. Peng et al., 2023 (arXiv:2309.00071), section 3.3.
    Dynamic,
    /// Low frequencies stretched, high ones kept, a ramp between. Peng et al., 2023 (arXiv:2309.00071).
    Yarn,
    /// A divisor for each pair. Ding et al., 2024 (arXiv:2402.13753).
    #[serde(alias = "su")]
    LongRope,
    /// Yarn's idea with a smooth band. Llama team, 2024 (arXiv:2407.21783).
    Llama3,
}

impl RopeParameters {
    /// What a config says, wherever it says it: in `rope_parameters`, or in `rope_scaling`, which wins as in Python, with
    /// `rope_theta` beside it; `theta` is the architecture's default.
    pub fn resolve(new: Option<&Self>, scaling: Option<&Self>, rope_theta: Option<f64>, theta: f64) -> Self {
        let scaling = scaling.filter(|scaling| scaling.rope_type.is_some() || scaling.old_type.is_some());
        let mut resolved = scaling.or(new).cloned().unwrap_or_default();
        resolved.rope_theta = resolved.rope_theta.or(rope_theta).or(Some(theta));
        resolved
    }

    /// The kind of frequencies.
    pub fn rope_type(&self) -> RopeType {
        let old = || serde_json::from_value(self.old_type.as_deref()?.into()).ok();
        self.rope_type.or_else(old).unwrap_or_default()
    }

    /// The base of the frequencies.
    pub fn theta(&self) -> f64 {
        self.rope_theta.unwrap_or(10_000.0)
    }

    /// Elements of a head that are rotated: the first ones.
    pub fn rotated(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial_rotary_factor.unwrap_or(1.0)) as usize
    }

    /// How far a model with these rotations reaches, in tokens: as far as its config says in `max_position_embeddings`, or
    /// further where a factor stretches what stands there as it was trained.
    pub fn reach(&self, max_position_embeddings: usize) -> usize {
        let trained = self.original_max_position_embeddings.unwrap_or(max_position_embeddings);
        match (self.rope_type(), self.factor) {
            (RopeType::Linear | RopeType::Dynamic | RopeType::Yarn | RopeType::Llama3, Some(factor)) => {
                max_position_embeddings.max((trained as f64 * factor) as usize)
            }
            _ => max_position_embeddings,
        }
    }

    /// Rejects what is missing, of the wrong length, or not a number to compute with.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config).
    pub fn validate(&self, check: &Check<'_>, head_dim: usize) -> Result<()> {
        let positive = |key: &str, value: Option<f64>| match value {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(check.error(key, format_args!("{value}, expected a positive number")))
            }
            _ => Ok(()),
        };
        positive("rope_theta", self.rope_theta)?;
        positive("factor", self.factor)?;
        positive("partial_rotary_factor", self.partial_rotary_factor)?;
        positive("low_freq_factor", self.low_freq_factor)?;
        positive("high_freq_factor", self.high_freq_factor)?;
        positive("beta_fast", self.beta_fast)?;
        positive("beta_slow", self.beta_slow)?;
        positive("attention_factor", self.attention_factor)?;
        if let (None, Some(old)) = (self.rope_type, &self.old_type) {
            let known = serde_json::from_value::<RopeType>(old.as_str().into()).is_ok();
            check.supported("rope_scaling.type", known, old, "default, linear, dynamic, yarn, longrope, llama3")?;
        }
        check.range("head_dim", head_dim, 2, 1 << 16)?;
        let rotated = self.rotated(head_dim);
        if !rotated.is_multiple_of(2) || !(2..=head_dim).contains(&rotated) {
            return Err(check.error(
                "partial_rotary_factor",
                format_args!("{rotated} of {head_dim} elements would be rotated, expected an even number of them"),
            ));
        }
        let needed = |key: &str, there: bool| {
            if there { Ok(()) } else { Err(check.error(key, format_args!("missing; {:?} needs it", self.rope_type()))) }
        };
        match self.rope_type() {
            RopeType::Default => Ok(()),
            RopeType::Linear | RopeType::Dynamic => needed("factor", self.factor.is_some()),
            RopeType::Yarn => Ok(()),
            RopeType::Llama3 => {
                needed("factor", self.factor.is_some())?;
                needed("low_freq_factor", self.low_freq_factor.is_some())?;
                needed("high_freq_factor", self.high_freq_factor.is_some())
            }
            RopeType::LongRope => {
                for (key, list) in [("short_factor", &self.short_factor), ("long_factor", &self.long_factor)] {
                    let list = list.as_deref().unwrap_or_default();
                    if list.len() != rotated / 2 || list.iter().any(|&f| !(f.is_finite() && f > 0.0)) {
                        let found = list.len();
                        let reason = format_args!("{found} numbers, expected {} positive ones", rotated / 2);
                        return Err(check.error(key, reason));
                    }
                }
                Ok(())
            }
        }
    }
}

/// The frequencies of a rotation.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Radians per position, one for each pair of elements.
    inv_freq: Vec<f32>,
    /// What becomes of them when a sequence is longer than `from` tokens.
    longer: Option<Longer>,
    /// The factor of cosines and sines.
    scale: f64,
    pairs: Pairs,
}

#[derive(Debug, Clone)]
struct Longer {
    from: usize,
    frequencies: LongFrequencies,
}

#[derive(Debug, Clone)]
enum LongFrequencies {
    /// A base that grows with the length.
    Dynamic { theta: f64, factor: f64 },
    /// Others, whatever the length.
    Fixed(Vec<f32>),
}

/// Cosine and sine for the positions of one batch.
#[derive(Debug, Clone)]
pub struct RopeTable {
    cos: Tensor<4>, // [batch or 1, seq, 1, rotated]
    sin: Tensor<4>,
    pairs: Pairs,
}

/// `theta^(-2i/n)` radians per position, in f32 as the reference computes it.
fn frequencies(rotated: usize, theta: f64) -> Vec<f32> {
    let inv_freq = |i| 1.0 / (theta as f32).powf((2 * i) as f32 / rotated as f32);
    (0..rotated / 2).map(inv_freq).collect()
}

impl Rope {
    /// `theta^(-2i/head_dim)` radians per position.
    pub fn new(head_dim: usize, theta: f64) -> Self {
        Self { inv_freq: frequencies(head_dim, theta), longer: None, scale: 1.0, pairs: Pairs::Halves }
    }

    /// What [`RopeParameters::validate`] has passed. `max_position_embeddings` is how far the model reaches, in tokens.
    pub fn from_parameters(parameters: &RopeParameters, head_dim: usize, max_position_embeddings: usize) -> Self {
        let rotated = parameters.rotated(head_dim);
        let plain = Self::new(rotated, parameters.theta());
        let original = parameters.original_max_position_embeddings.unwrap_or(max_position_embeddings).max(1);
        let factor = parameters.factor.unwrap_or(max_position_embeddings as f64 / original as f64);
        match parameters.rope_type() {
            RopeType::Default => plain,
            RopeType::Linear => Self { inv_freq: plain.inv_freq.iter().map(|f| f / factor as f32).collect(), ..plain },
            RopeType::Dynamic => {
                let frequencies = LongFrequencies::Dynamic { theta: parameters.theta(), factor };
                Self { longer: Some(Longer { from: max_position_embeddings, frequencies }), ..plain }
            }
            RopeType::Llama3 => {
                let (low, high) =
                    (parameters.low_freq_factor.unwrap_or(1.0), parameters.high_freq_factor.unwrap_or(4.0));
                let inv_freq = plain.inv_freq.iter().map(|&f| llama3(f, factor, low, high, original as f64));
                Self { inv_freq: inv_freq.collect(), ..plain }
            }
            RopeType::Yarn => {
                let ramp = yarn_ramp(parameters, rotated, original as f64);
                let inv_freq = plain.inv_freq.iter().zip(ramp);
                let inv_freq = inv_freq.map(|(&f, ramp)| f / factor as f32 * ramp + f * (1.0 - ramp));
                Self { inv_freq: inv_freq.collect(), scale: yarn_scale(parameters, factor), ..plain }
            }
            RopeType::LongRope => {
                let divided = |divisors: &Option<Vec<f64>>| {
                    let divisors = divisors.iter().flatten();
                    plain.inv_freq.iter().zip(divisors).map(|(f, &divisor)| f / divisor as f32).collect::<Vec<_>>()
                };
                let scale = || if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
                let longer =
                    Longer { from: original, frequencies: LongFrequencies::Fixed(divided(&parameters.long_factor)) };
                Self {
                    inv_freq: divided(&parameters.short_factor),
                    longer: Some(longer),
                    scale: parameters.attention_factor.unwrap_or_else(scale),
                    ..plain
                }
            }
        }
    }

    /// The same frequencies for other pairs.
    pub fn with_pairs(self, pairs: Pairs) -> Self {
        Self { pairs, ..self }
    }

    /// The length in tokens that has other frequencies than all longer ones, if these have the same.
    pub fn switches_at(&self) -> Option<usize> {
        match &self.longer {
            Some(Longer { from, frequencies: LongFrequencies::Fixed(_) }) => Some(*from),
            _ => None,
        }
    }

    /// The rotations of some positions of sequences that are `length` tokens long so far.
    ///
    /// # Shapes
    /// - position_ids: `[batch or 1, seq]`
    pub fn table(&self, position_ids: Tensor<2, Int>, length: usize) -> RopeTable {
        let device: Device = position_ids.device();
        let [batch, seq] = position_ids.dims();
        let half = self.inv_freq.len();
        let long = match &self.longer {
            Some(Longer { from, frequencies: long }) if length > *from => Some(match long {
                LongFrequencies::Fixed(inv_freq) => inv_freq.clone(),
                LongFrequencies::Dynamic { theta, factor } => {
                    let rotated = 2.0 * half as f64;
                    let stretch = factor * length as f64 / *from as f64 - (factor - 1.0);
                    frequencies(2 * half, theta * stretch.powf(rotated / (rotated - 2.0)))
                }
            }),
            _ => None,
        };
        let inv_freq = long.as_deref().unwrap_or(&self.inv_freq);
        let inv_freq = Tensor::<1>::from_floats(inv_freq, &device).reshape([1, 1, 1, half]);
        let angles = position_ids.float().reshape([batch, seq, 1, 1]) * inv_freq;
        let angles = match self.pairs {
            Pairs::Halves => Tensor::cat(vec![angles.clone(), angles], 3),
            Pairs::Neighbours => {
                let angles = angles.unsqueeze_dim::<5>(4);
                Tensor::cat(vec![angles.clone(), angles], 4).reshape([batch, seq, 1, 2 * half])
            }
        };
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let scaled = |x: Tensor<4>| if self.scale == 1.0 { x } else { x * self.scale };
        RopeTable { cos: scaled(cos), sin: scaled(sin), pairs: self.pairs }
    }
}

/// Long waves are stretched, short ones kept, those between share.
fn llama3(f: f32, factor: f64, low: f64, high: f64, original: f64) -> f32 {
    let wavelength = 2.0 * std::f64::consts::PI / f64::from(f);
    if wavelength < original / high {
        f
    } else if wavelength > original / low {
        f / factor as f32
    } else {
        let smooth = ((original / wavelength - low) / (high - low)) as f32;
        (1.0 - smooth) * f / factor as f32 + smooth * f
    }
}

/// How much each pair is stretched: 0 for fast ones, 1 for slow ones. Peng et al., 2023, section 3.2.
fn yarn_ramp(parameters: &RopeParameters, rotated: usize, original: f64) -> Vec<f32> {
    let pair = |rotations: f64| {
        rotated as f64 * (original / (rotations * 2.0 * std::f64::consts::PI)).ln() / (2.0 * parameters.theta().ln())
    };
    let (mut low, mut high) = (pair(parameters.beta_fast.unwrap_or(32.0)), pair(parameters.beta_slow.unwrap_or(1.0)));
    if parameters.truncate.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    low = low.max(0.0);
    high = high.min(rotated as f64 - 1.0);
    if low == high {
        high += 0.001;
    }
    (0..rotated / 2).map(|i| (((i as f64 - low) / (high - low)) as f32).clamp(0.0, 1.0)).collect()
}

fn yarn_scale(parameters: &RopeParameters, factor: f64) -> f64 {
    let scale = |mscale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 };
    match (parameters.attention_factor, parameters.mscale, parameters.mscale_all_dim) {
        (Some(given), _, _) => given,
        (None, Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
        _ => scale(1.0),
    }
}

impl RopeTable {
    /// Rotates each pair of the first elements of a head by its position's angle.
    ///
    /// # Shapes
    /// - x, output: `[batch, seq, heads, head_dim]`
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        tx_kernels::rotary(x, self.cos.clone(), self.sin.clone(), self.pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_reach_further_than_what_was_trained() {
        let scaled = |rope_type, factor, original_max_position_embeddings| RopeParameters {
            rope_type: Some(rope_type),
            factor,
            original_max_position_embeddings,
            ..RopeParameters::default()
        };
        assert_eq!(RopeParameters::default().reach(2048), 2048);
        assert_eq!(scaled(RopeType::Linear, Some(4.0), None).reach(2048), 8192);
        assert_eq!(scaled(RopeType::Yarn, Some(4.0), Some(32_768)).reach(32_768), 131_072);
        // Where the config says the longer length already.
        assert_eq!(scaled(RopeType::Yarn, Some(40.0), Some(4096)).reach(163_840), 163_840);
        assert_eq!(scaled(RopeType::Llama3, Some(8.0), Some(8192)).reach(131_072), 131_072);
        assert_eq!(scaled(RopeType::LongRope, Some(32.0), Some(4096)).reach(131_072), 131_072);
    }
}
