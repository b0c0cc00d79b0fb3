//! One adapter of several: peft's `add_weighted_adapter`.
//!
//! Reference: peft 0.21.2, `tuners/lora/model.py`, `tuners/ia3/model.py`, `utils/merge_utils.py`. TIES: Yadav et al., 2023
//! (arXiv:2306.01708). DARE: Yu et al., 2023 (arXiv:2311.03099).

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Map, Value};
use tx_core::error::{Error, Result};
use tx_core::task::AnyTensor;

use super::Adapters;
use super::adapter::{Adapter, Layers};
use super::config::{Biases, LoraConfig, Method, Modules, PeftConfig};
use super::ia3::Ia3;
use super::lora::Lora;
use super::modules::Kind;
use super::saved::Saved;
use super::slot::Slot;
use super::svd::{Svd, svd, svd_of_product};
use crate::data::Random;

/// How several adapters become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combination {
    /// The matrices one below the other: exact, and the ranks add up.
    Cat,
    /// The matrices are added up, each apart from the other.
    Linear,
    /// The same with the largest elements alone.
    MagnitudePrune,
    /// The same where most signs agree.
    Ties,
    /// [`Combination::Linear`] with random elements alone.
    DareLinear,
    /// [`Combination::Ties`] with random elements.
    DareTies,
    /// The best approximation, of a rank, of what the adapters add to weights together.
    Svd,
    /// The same after [`Combination::MagnitudePrune`] of what they add.
    MagnitudePruneSvd,
    /// The same after [`Combination::Ties`].
    TiesSvd,
    /// The same after [`Combination::DareLinear`].
    DareLinearSvd,
    /// The same after [`Combination::DareTies`].
    DareTiesSvd,
}

/// The combinations by peft's names.
const COMBINATIONS: [(&str, Combination); 11] = [
    ("cat", Combination::Cat),
    ("dare_linear", Combination::DareLinear),
    ("dare_linear_svd", Combination::DareLinearSvd),
    ("dare_ties", Combination::DareTies),
    ("dare_ties_svd", Combination::DareTiesSvd),
    ("linear", Combination::Linear),
    ("magnitude_prune", Combination::MagnitudePrune),
    ("magnitude_prune_svd", Combination::MagnitudePruneSvd),
    ("svd", Combination::Svd),
    ("ties", Combination::Ties),
    ("ties_svd", Combination::TiesSvd),
];

impl FromStr for Combination {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = COMBINATIONS.iter().find(|(known, _)| *known == name);
        let expected = || COMBINATIONS.map(|(known, _)| known).join(", ");
        found.map(|(_, kind)| *kind).ok_or_else(|| Error::input("combination", format_args!("`{name}`"), expected()))
    }
}

impl Combination {
    /// What is done with the elements, and whether with those of the sum of all.
    fn parts(self) -> (Elements, bool) {
        match self {
            Self::Cat | Self::Linear => (Elements::Sum, false),
            Self::MagnitudePrune => (Elements::MagnitudePrune, false),
            Self::Ties => (Elements::Ties, false),
            Self::DareLinear => (Elements::DareLinear, false),
            Self::DareTies => (Elements::DareTies, false),
            Self::Svd => (Elements::Sum, true),
            Self::MagnitudePruneSvd => (Elements::MagnitudePrune, true),
            Self::TiesSvd => (Elements::Ties, true),
            Self::DareLinearSvd => (Elements::DareLinear, true),
            Self::DareTiesSvd => (Elements::DareTies, true),
        }
    }
}

/// What becomes of the elements at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Elements {
    Sum,
    MagnitudePrune,
    Ties,
    DareLinear,
    DareTies,
}

/// What decides the sign of an element in TIES.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MajoritySign {
    /// The sum.
    #[default]
    Total,
    /// The number of signs.
    Frequency,
}

/// The settings of a combination, with peft's names.
#[derive(Debug, Clone, Default)]
pub struct CombineOptions {
    /// The rank of the approximation; the largest one of the adapters if `None`.
    pub svd_rank: Option<usize>,
    /// Elements of the approximation are clipped to this quantile of them.
    pub svd_clamp: Option<f64>,
    /// The share of elements that are kept.
    pub density: Option<f64>,
    /// What decides signs.
    pub majority_sign_method: MajoritySign,
    /// What the choice of random elements depends on.
    pub seed: u64,
}

/// A pair of matrices on the host: `[rank, in]` and `[out, rank]`.
struct Pair {
    a: Vec<f32>,
    b: Vec<f32>,
    rank: usize,
}

impl Adapters {
    /// Adds an adapter that is made of others, each with a weight. It is not active.
    ///
    /// # Errors
    /// [`Error::Input`] for adapters that cannot be combined so.
    pub fn add_weighted(
        &mut self,
        name: &str,
        adapters: &[(&str, f64)],
        combination: Combination,
        options: &CombineOptions,
    ) -> Result<()> {
        self.check_new(name)?;
        let members: Vec<(&Adapter, f64)> = adapters
            .iter()
            .map(|(name, weight)| Ok((&self.adapters[self.find(name)?], *weight)))
            .collect::<Result<_>>()?;
        let Some((first, _)) = members.first() else { return Err(wrong("none", "at least one adapter")) };
        if let Some((_, weight)) = members.iter().find(|(_, weight)| !weight.is_finite()) {
            return Err(wrong(format!("the weight {weight}"), "a finite number"));
        }
        if let Some(density) = options.density.filter(|density| !(0.0..=1.0).contains(density)) {
            return Err(wrong(format!("the density {density}"), "0 to 1"));
        }
        let combination = if members.len() == 1 { Combination::Linear } else { combination };
        let (config, layers) = match &first.layers {
            Layers::Lora(_) => combine_lora(&members, combination, options)?,
            Layers::Ia3(_) => combine_ia3(&members)?,
            Layers::Prompt(_) | Layers::Prefix(_) => return Err(wrong("virtual tokens", "adapters on layers")),
        };
        let mut saved = BTreeMap::<&str, Vec<&Arc<Saved>>>::new();
        for module in members.iter().flat_map(|(adapter, _)| &adapter.saved) {
            saved.entry(&module.path).or_default().push(module);
        }
        if let Some((path, _)) = saved.iter().find(|(_, modules)| modules.len() > 1) {
            return Err(wrong(format!("several that have `{path}` as a whole"), "at most one that has"));
        }
        if members.iter().any(|(adapter, _)| !adapter.loose.is_empty()) {
            return Err(wrong("one with biases or norms of the model", "adapters without them"));
        }
        let again = |slot: &Slot, layer: &str| Slot::new(slot.key.clone(), layer, slot.any().untrack());
        let copy = |module: &Arc<Saved>| {
            let layer = if module.kind == Kind::Embedding { "Embedding" } else { "Linear" };
            let (weight, bias) = (again(&module.weight, layer), module.bias.as_ref().map(|bias| again(bias, layer)));
            Arc::new(Saved { path: module.path.clone(), id: module.id, kind: module.kind, weight, bias })
        };
        let saved = saved.into_values().flatten().map(copy).collect();
        let adapter = Adapter { name: name.to_owned(), config, layers, saved, loose: Vec::new() };
        self.adapters.push(adapter);
        Ok(())
    }
}

fn wrong(found: impl std::fmt::Display, expected: &str) -> Error {
    Error::input("adapters to combine", found, expected)
}

/// The names, or the patterns, of all together.
fn union(modules: &[Option<Modules>]) -> Result<Value> {
    let (mut names, mut patterns) = (Vec::new(), Vec::new());
    for modules in modules.iter().flatten() {
        match modules {
            Modules::Names(more) => names.extend(more.iter().cloned()),
            Modules::Pattern(pattern) => patterns.push(format!("({pattern})")),
        }
    }
    if !names.is_empty() && !patterns.is_empty() {
        return Err(wrong("names of layers and patterns of them", "either"));
    }
    if !patterns.is_empty() {
        return Ok(patterns.join("|").into());
    }
    names.sort();
    names.dedup();
    Ok(names.into())
}

/// The layers of all adapters that are on one module, by its name.
fn by_module<'a, T>(members: impl Iterator<Item = (&'a Vec<Arc<T>>, f64)>, path: fn(&T) -> &str) -> Members<'a, T> {
    let mut modules = BTreeMap::<&str, Vec<_>>::new();
    for (layers, weight) in members {
        for layer in layers {
            modules.entry(path(layer)).or_default().push((layer, weight));
        }
    }
    modules
}

/// By the name of a module, the layers that are on it and their weights.
type Members<'a, T> = BTreeMap<&'a str, Vec<(&'a Arc<T>, f64)>>;

fn combine_lora(
    members: &[(&Adapter, f64)],
    combination: Combination,
    options: &CombineOptions,
) -> Result<(PeftConfig, Layers)> {
    let mut configs: Vec<&LoraConfig> = Vec::new();
    let mut layers = Vec::new();
    for (adapter, weight) in members {
        let (Method::Lora(config), Layers::Lora(own)) = (&adapter.config.method, &adapter.layers) else {
            return Err(wrong("adapters of several methods", "one method"));
        };
        if config.use_dora || config.lora_bias || config.bias != Biases::None {
            return Err(wrong("one with `use_dora`, `lora_bias` or `bias`", "adapters without them"));
        }
        configs.push(config);
        layers.push((own, *weight));
    }
    let (elements, of_sum) = combination.parts();
    let density = match (elements, options.density) {
        (Elements::Sum, _) => 1.0,
        (_, Some(density)) => density,
        (_, None) => return Err(wrong("no density", "the share of elements that are kept")),
    };
    let ranks: Vec<usize> = configs
        .iter()
        .map(|config| config.rank_pattern.iter().map(|(_, rank)| *rank).fold(config.r, usize::max))
        .collect();
    let most = ranks.iter().copied().max().unwrap_or(1);
    let rank = match combination {
        Combination::Cat => ranks.iter().sum(),
        _ if of_sum => options.svd_rank.unwrap_or(most),
        _ if ranks.iter().all(|rank| *rank == most) => most,
        _ => return Err(wrong(format!("ranks {ranks:?}"), "one rank, or the combination `cat` or `svd`")),
    };
    let mut combined = Vec::new();
    for (number, members) in by_module(layers.into_iter(), |lora: &Lora| lora.path.as_str()).into_values().enumerate() {
        let Some((like, _)) = members.first() else { continue };
        let [input, output] = [like.a.any().shape()[1], like.b.any().shape()[0]];
        let mut random = Random::new(&[options.seed, number as u64]);
        let mut mix = |tensors: Vec<Vec<f32>>, weights: &[f64]| {
            mix(tensors, weights, elements, density, options.majority_sign_method, &mut random)
        };
        let pair = if of_sum {
            let parts = match elements {
                // Without the sum itself, which is as large as the weight.
                Elements::Sum => sum_of_products(&members),
                _ => {
                    let deltas = members.iter().map(|(lora, _)| values(lora.delta())).collect();
                    let weights: Vec<f64> = members.iter().map(|(_, weight)| *weight).collect();
                    svd(&mix(deltas, &weights), output)
                }
            };
            approximation(&parts, rank, options.svd_clamp)
        } else if combination == Combination::Cat {
            stacked(&members, output)
        } else {
            if members.iter().any(|(lora, _)| rank_of(lora) != rank_of(like)) {
                let found = format!("several ranks on `{}`", like.path);
                return Err(wrong(found, "one, or the combination `cat` or `svd`"));
            }
            let scaled: Vec<f64> = members.iter().map(|(lora, weight)| lora.scaling * weight).collect();
            // The sign of a weight is on one of the two alone.
            let of_a: Vec<f64> = scaled.iter().map(|scale| scale.abs().sqrt().copysign(*scale)).collect();
            let of_b: Vec<f64> = scaled.iter().map(|scale| scale.abs().sqrt()).collect();
            let a = mix(members.iter().map(|(lora, _)| values(lora.a.constant())).collect(), &of_a);
            let b = mix(members.iter().map(|(lora, _)| values(lora.b.constant())).collect(), &of_b);
            Pair { a, b, rank: rank_of(like) }
        };
        let pair = padded(pair, rank, [input, output]);
        let device = like.a.any().untrack().flatten().device();
        let slot = |key: &str, values: Vec<f32>, shape: [usize; 2]| {
            Slot::new(key.into(), "Linear", host(values, &shape, &device))
        };
        let a = slot(&like.a.key, pair.a, [rank, input]);
        combined.push(Arc::new(like.like(a, slot(&like.b.key, pair.b, [output, rank]), 1.0)));
    }
    let targets = union(&configs.iter().map(|config| config.target_modules.clone()).collect::<Vec<_>>())?;
    let config = members[0].0.config.with([
        ("r", rank.into()),
        ("lora_alpha", rank.into()),
        ("rank_pattern", Map::new().into()),
        ("alpha_pattern", Map::new().into()),
        ("target_modules", targets),
        ("use_rslora", false.into()),
    ])?;
    Ok((config, Layers::Lora(combined)))
}

fn combine_ia3(members: &[(&Adapter, f64)]) -> Result<(PeftConfig, Layers)> {
    let (mut targets, mut feedforward, mut layers) = (Vec::new(), Vec::new(), Vec::new());
    for (adapter, weight) in members {
        let (Method::Ia3(config), Layers::Ia3(own)) = (&adapter.config.method, &adapter.layers) else {
            return Err(wrong("adapters of several methods", "one method"));
        };
        targets.push(config.target_modules.clone());
        feedforward.push(config.feedforward_modules.clone());
        layers.push((own, *weight));
    }
    let mut combined = Vec::new();
    for members in by_module(layers.into_iter(), |ia3: &Ia3| ia3.path.as_str()).into_values() {
        let Some((like, _)) = members.first() else { continue };
        if members.iter().any(|(ia3, _)| ia3.feedforward != like.feedforward) {
            return Err(wrong(format!("factors of inputs and of outputs of `{}`", like.path), "either"));
        }
        let zero = like.factors.constant::<2>() * 0.0;
        let sum = members.iter().fold(zero, |sum, (ia3, weight)| sum + ia3.factors.constant::<2>() * *weight);
        combined.push(Arc::new(Ia3 {
            path: like.path.clone(),
            weight: like.weight,
            kind: like.kind,
            feedforward: like.feedforward,
            factors: Slot::new(like.factors.key.clone(), "Linear", sum.into()),
        }));
    }
    let (targets, feedforward) = (union(&targets)?, union(&feedforward)?);
    let config = members[0].0.config.with([("target_modules", targets), ("feedforward_modules", feedforward)])?;
    Ok((config, Layers::Ia3(combined)))
}

fn rank_of(lora: &Lora) -> usize {
    lora.a.any().shape()[0]
}

/// Row-major.
fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn host(values: Vec<f32>, shape: &[usize], device: &Device) -> AnyTensor {
    let length = values.len();
    AnyTensor::from_flat(Tensor::from_data(TensorData::new(values, [length]), (device, DType::F32)), shape)
}

/// The rows of a matrix.
fn rows(matrix: &[f32], columns: usize) -> Vec<Vec<f64>> {
    matrix.chunks_exact(columns.max(1)).map(|row| row.iter().map(|&x| f64::from(x)).collect()).collect()
}

/// The decomposition of what adapters add to a weight together.
fn sum_of_products(members: &[(&Arc<Lora>, f64)]) -> Svd {
    let (mut columns, mut all_rows) = (Vec::new(), Vec::new());
    for (lora, weight) in members {
        let (a, b) = (lora.a.constant::<2>(), lora.b.constant::<2>());
        let ([_, input], [output, _]) = (a.dims(), b.dims());
        all_rows.extend(rows(&values(a), input));
        columns.extend(rows(&values(b.transpose() * (lora.scaling * weight)), output));
    }
    svd_of_product(columns, all_rows)
}

/// The best approximation of a rank, singular values on the side of the outputs.
fn approximation(parts: &Svd, rank: usize, clamp: Option<f64>) -> Pair {
    let rank = rank.min(parts.s.len());
    let output = parts.u.first().map_or(0, Vec::len);
    let mut b = Vec::with_capacity(output * rank);
    for row in 0..output {
        b.extend((0..rank).map(|k| (parts.u[k][row] * parts.s[k]) as f32));
    }
    let mut a: Vec<f32> = parts.v[..rank].iter().flatten().map(|&x| x as f32).collect();
    if let Some(clamp) = clamp {
        let mut all: Vec<f32> = b.iter().chain(&a).copied().collect();
        let high = quantile(&mut all, clamp).abs();
        a.iter_mut().chain(&mut b).for_each(|x| *x = x.clamp(-high, high));
    }
    Pair { a, b, rank }
}

/// The value below which a share of values lies, with a straight line between two.
fn quantile(values: &mut [f32], share: f64) -> f32 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_by(f32::total_cmp);
    let at = share.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (low, high) = (values[at.floor() as usize], values[at.ceil() as usize]);
    low + (high - low) * at.fract() as f32
}

/// The matrices one below the other, weights on the side of the inputs.
fn stacked(members: &[(&Arc<Lora>, f64)], output: usize) -> Pair {
    let mut a = Vec::new();
    let (mut columns, mut rank) = (Vec::new(), 0);
    for (lora, weight) in members {
        a.extend(values(lora.a.constant::<2>() * (lora.scaling * weight)));
        let b = lora.b.constant::<2>();
        rank += b.dims()[1];
        columns.extend(values(b.transpose()));
    }
    let b = (0..output).flat_map(|row| (0..rank).map(move |k| (k, row)));
    let b = b.map(|(k, row)| columns[k * output + row]).collect();
    Pair { a, b, rank }
}

/// With zeros up to a rank.
fn padded(pair: Pair, rank: usize, [input, output]: [usize; 2]) -> Pair {
    let Pair { mut a, b, rank: own } = pair;
    a.resize(input * rank, 0.0);
    if own == 0 {
        return Pair { a, b: vec![0.0; output * rank], rank };
    }
    let mut wide = Vec::with_capacity(output * rank);
    for row in b.chunks_exact(own) {
        wide.extend_from_slice(row);
        wide.resize(wide.len() + rank - own, 0.0);
    }
    Pair { a, b: wide, rank }
}

/// The elements of several tensors as one.
fn mix(
    tensors: Vec<Vec<f32>>,
    weights: &[f64],
    elements: Elements,
    density: f64,
    majority: MajoritySign,
    random: &mut Random,
) -> Vec<f32> {
    let pruned: Vec<Vec<f32>> = tensors
        .into_iter()
        .map(|tensor| match elements {
            Elements::Sum => tensor,
            Elements::MagnitudePrune | Elements::Ties => largest(tensor, density),
            Elements::DareLinear | Elements::DareTies => chosen(tensor, density, random),
        })
        .collect();
    let length = pruned.first().map_or(0, Vec::len);
    let ties = matches!(elements, Elements::Ties | Elements::DareTies);
    let one = |at: usize| {
        let all = || pruned.iter().map(move |tensor| tensor[at]).zip(weights);
        if !ties {
            return all().map(|(x, weight)| f64::from(x) * weight).sum::<f64>() as f32;
        }
        let signs: f64 = match majority {
            MajoritySign::Total => all().map(|(x, _)| f64::from(x)).sum(),
            MajoritySign::Frequency => all().map(|(x, _)| f64::from(sign(x))).sum(),
        };
        let elected = if signs >= 0.0 { 1.0 } else { -1.0 };
        let agreeing = || all().filter(|(x, _)| sign(*x) == elected);
        let sum: f64 = agreeing().map(|(x, weight)| f64::from(x) * weight).sum();
        (sum / agreeing().count().max(1) as f64) as f32
    };
    (0..length).map(one).collect()
}

/// 1, −1, or 0 for 0.
fn sign(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

/// The largest elements, and zeros.
fn largest(mut tensor: Vec<f32>, density: f64) -> Vec<f32> {
    let kept = (density * tensor.len() as f64) as usize;
    if kept >= tensor.len() {
        return tensor;
    }
    let mut order: Vec<usize> = (0..tensor.len()).collect();
    order.select_nth_unstable_by(kept, |&i, &j| tensor[j].abs().total_cmp(&tensor[i].abs()).then(i.cmp(&j)));
    for &i in &order[kept..] {
        tensor[i] = 0.0;
    }
    tensor
}

/// Random elements, larger by what is missing, and zeros.
fn chosen(mut tensor: Vec<f32>, density: f64, random: &mut Random) -> Vec<f32> {
    if density < 1.0 {
        for x in &mut tensor {
            *x = if random.uniform() < density { (f64::from(*x) / density) as f32 } else { 0.0 };
        }
    }
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixed(elements: Elements, majority: MajoritySign) -> Vec<f32> {
        let tensors = vec![vec![3.0, -1.0, 0.5, 2.0], vec![-1.0, -2.0, 4.0, -0.5]];
        mix(tensors, &[1.0, 0.5], elements, 0.5, majority, &mut Random::new(&[1]))
    }

    #[test]
    fn elements_are_combined_as_in_the_papers() {
        assert_eq!(mixed(Elements::Sum, MajoritySign::Total), [2.5, -2.0, 2.5, 1.75]);
        // The largest two of each are 3, 2 and −2, 4.
        assert_eq!(mixed(Elements::MagnitudePrune, MajoritySign::Total), [3.0, -1.0, 2.0, 2.0]);
        assert_eq!(mixed(Elements::Ties, MajoritySign::Total), [3.0, -1.0, 2.0, 2.0]);
        let against = |majority| {
            let tensors = vec![vec![3.0], vec![-1.0], vec![-1.0]];
            mix(tensors, &[1.0; 3], Elements::Ties, 1.0, majority, &mut Random::new(&[1]))
        };
        assert_eq!((against(MajoritySign::Total), against(MajoritySign::Frequency)), (vec![3.0], vec![-1.0]));
        let dropped = chosen(vec![1.0; 1000], 0.25, &mut Random::new(&[3]));
        assert!(dropped.iter().all(|x| *x == 0.0 || *x == 4.0));
        assert!((dropped.iter().sum::<f32>() - 1000.0).abs() < 200.0);
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&mut [4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
        assert_eq!((quantile(&mut [4.0, 1.0], 1.0), quantile(&mut [], 0.5)), (4.0, 0.0));
        let parts = svd(&[2.0, 0.0, 0.0, 1.0], 2);
        let pair = approximation(&parts, 2, Some(0.75));
        assert!(pair.b.iter().chain(&pair.a).all(|x| x.abs() <= 1.0));
    }

    #[test]
    fn ranks_are_filled_up_with_zeros() {
        let pair = padded(Pair { a: vec![1.0, 2.0], b: vec![3.0, 4.0], rank: 1 }, 2, [2, 2]);
        assert_eq!((pair.a, pair.b), (vec![1.0, 2.0, 0.0, 0.0], vec![3.0, 0.0, 4.0, 0.0]));
    }
}
