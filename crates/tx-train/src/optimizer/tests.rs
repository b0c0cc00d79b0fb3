//! Updates of parameters without a model, beside PyTorch's.

use tx_core::weights::save::write_file;

use super::*;
use crate::checkpoint::OPTIMIZER;
use crate::parameters::Trainable;
use crate::parameters::tests::Loose;

const WEIGHT: &str = "dense.weight";
const BIAS: &str = "dense.bias";

fn arguments() -> TrainingArguments {
    TrainingArguments {
        weight_decay: 0.1,
        adam_beta1: 0.8,
        adam_beta2: 0.95,
        adam_epsilon: 1e-6,
        ..TrainingArguments::default()
    }
}

fn source() -> Loose {
    let mut source = Loose::new(&[(WEIGHT, &[1.0, -2.0, 0.5, 0.25]), (BIAS, &[0.1, -0.2])]);
    Trainable::all().track(&mut source).unwrap();
    source
}

/// One of three updates; the bias has no gradient in the second.
fn update(source: &mut Loose, optimizer: &mut Optimizer, step: usize) -> f64 {
    let weight: [&[f32]; 3] = [&[3.0, -1.0, 0.5, 2.0], &[0.1, 0.2, -0.3, 0.1], &[-1.0, 4.0, 2.0, 0.0]];
    let bias: [Option<&[f32]>; 3] = [Some(&[1.0, 1.0]), None, Some(&[-3.0, 0.5])];
    let factors: Vec<_> =
        [Some((WEIGHT, weight[step])), bias[step].map(|bias| (BIAS, bias))].into_iter().flatten().collect();
    let mut gradients = Gradients::new(source);
    gradients.add(source, &mut source.backward(&factors));
    let norm = gradients.clip(1.0);
    optimizer.step(source, &mut gradients, 1e-2 / (step + 1) as f64);
    norm
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 2e-6 * expected.abs(), "{found}, expected {expected}");
    }
}

#[test]
fn updates_are_those_of_pytorch() {
    // torch.optim.AdamW with betas of 0.8 and 0.95, and decay for the weight alone.
    let (mut source, mut optimizer) = (source(), Optimizer::new(&arguments()));
    let norms: Vec<f32> = (0..3).map(|step| update(&mut source, &mut optimizer, step) as f32).collect();
    close(&norms, &[4.031_128_4, 0.387_298_38, 5.5]);
    close(&source.values(WEIGHT), &[0.983_320_36, -1.988_493_2, 0.490_525_9, 0.233_742_58]);
    close(&source.values(BIAS), &[0.091_504, -0.212_896_76]);
    let state = optimizer.save();
    let values = |name: &str| state[name].as_slice::<f32>().unwrap().to_vec();
    close(&values("dense.weight.exp_avg"), &[0.074_895_024, 0.145_701_65, 0.040_603_705, 0.079_505_78]);
    close(&values("dense.weight.exp_avg_sq"), &[0.027_120_193, 0.031_123_197, 0.011_580_8, 0.011_582_689]);
    close(&values("dense.bias.exp_avg"), &[-0.069_399_79, 0.057_872_93]);
    // The bias had two updates.
    assert_eq!(state["dense.bias.step"].as_slice::<i64>().unwrap(), [2]);
    assert!(source.0.iter().all(|parameter| parameter.tensor.is_tracked()));
}

/// Saves an optimizer, and loads it for other parameters.
fn reload(optimizer: &Optimizer, source: &Loose) -> Result<Optimizer> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OPTIMIZER);
    write_file(&path, optimizer.save()).unwrap();
    let mut other = Optimizer::new(&arguments());
    other.load(source, &Checkpoint::from_file(&path)?)?;
    Ok(other)
}

#[test]
fn a_saved_state_goes_on_bit_for_bit() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = source();
        source.map(&mut |parameter| parameter.tensor.untrack().to::<2>().cast(dtype).into());
        Trainable::all().in_stored_dtype().track(&mut source).unwrap();
        let mut optimizer = Optimizer::new(&arguments());
        update(&mut source, &mut optimizer, 0);
        update(&mut source, &mut optimizer, 1);
        let mut loaded = reload(&optimizer, &source).unwrap();
        let mut other = Loose(source.0.clone());
        update(&mut source, &mut optimizer, 2);
        update(&mut other, &mut loaded, 2);
        for name in [WEIGHT, BIAS] {
            let bits = |source: &Loose| source.values(name).iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&source), bits(&other), "{name} {dtype:?}");
        }
    }
}

#[test]
fn steps_that_16_bits_would_round_away_are_kept() {
    let mut source = Loose::new(&[(WEIGHT, &[1.0, 1.0])]);
    source.map(&mut |parameter| parameter.tensor.to::<2>().cast(DType::BF16).into());
    Trainable::all().in_stored_dtype().track(&mut source).unwrap();
    let mut optimizer = Optimizer::new(&TrainingArguments::default());
    let mut gradients = Gradients::new(&source);
    for _ in 0..10 {
        gradients.add(&source, &mut source.backward(&[(WEIGHT, &[1.0, -1.0])]));
        optimizer.step(&mut source, &mut gradients, 1e-3);
    }
    // Numbers of bf16 next to 1 lie 0.004 and 0.008 apart: no step of 0.001 reaches one, but ten do.
    close(&source.values(WEIGHT), &[0.988_281_25, 1.007_812_5]);
    assert_eq!(source.0[0].tensor.dtype(), DType::BF16);
}

#[test]
fn a_state_of_other_parameters_is_refused() {
    let (mut first, mut optimizer) = (source(), Optimizer::new(&arguments()));
    update(&mut first, &mut optimizer, 0);
    let refused = |source: &mut Loose, only: &'static str| {
        Trainable::only(move |parameter| parameter.name == only).track(source).unwrap();
        reload(&optimizer, source).unwrap_err().to_string()
    };
    let text = refused(&mut source(), BIAS);
    assert!(text.contains("`dense.weight`: no such parameter is trained"), "{text}");
    let text = refused(&mut Loose::new(&[(WEIGHT, &[0.0; 6])]), WEIGHT);
    assert!(text.contains("`dense.weight.exp_avg`: f32 [4], expected f32 [6]"), "{text}");
    let missing = BTreeMap::from([("dense.weight.step".to_owned(), TensorData::new(vec![1i64], [1]))]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(OPTIMIZER);
    write_file(&path, missing).unwrap();
    let text = optimizer.load(&first, &Checkpoint::from_file(&path).unwrap()).unwrap_err().to_string();
    assert!(text.contains("`dense.weight.exp_avg`: is missing"), "{text}");
}
