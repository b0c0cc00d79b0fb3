//! The real `all-MiniLM-L6-v2` through the real program, against the numbers of Python's sentence-transformers.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    sentences: Vec<String>,
    embeddings: Vec<Vec<f64>>,
}

/// `TX_MINILM` is the model's folder; `.ci/run` fetches it.
#[test]
#[ignore = "needs TX_MINILM, the folder of all-MiniLM-L6-v2"]
fn embeddings_equal_those_of_python() -> Result<()> {
    let model = std::env::var_os("TX_MINILM").context("TX_MINILM is not set")?;
    let golden = Path::new("data/embed/minilm.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(golden)?)?;
    ensure!(golden.sentences == ["That is a happy person", "That is a very happy person", "Today is a sunny day"]);

    let mut embed = Command::new(tx_tests::tx()?);
    let output = embed.arg("embed").arg("--json").arg("--model").arg(model).args(&golden.sentences).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Vec<Vec<f64>> = serde_json::from_slice(&output.stdout)?;

    ensure!(found.len() == 3);
    for (found, expected) in found.iter().zip(&golden.embeddings) {
        ensure!(found.len() == 384 && expected.len() == 384);
        let worst = found.iter().zip(expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        ensure!(worst < 1e-5, "a component differs by {worst:e}");
    }
    let cosine = |i: usize| found[0].iter().zip(&found[i]).map(|(x, y)| x * y).sum::<f64>();
    ensure!((cosine(1) - 0.9429).abs() < 5e-5, "similarity to the second is {}", cosine(1));
    ensure!((cosine(2) - 0.2569).abs() < 5e-5, "similarity to the third is {}", cosine(2));
    Ok(())
}

/// `tx embed --json` on a file of sentences.
fn embed(arguments: &[&str]) -> Result<Vec<Vec<f64>>> {
    let model = std::env::var_os("TX_MINILM").context("TX_MINILM is not set")?;
    let sentences = Path::new("data/embed/sentences.txt");
    let mut command = Command::new(tx_tests::tx()?);
    command.args(["embed", "--json", "-"]).args(arguments).arg("--model").arg(model);
    let output = command.stdin(std::fs::File::open(sentences)?).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
#[ignore = "needs TX_MINILM, the folder of all-MiniLM-L6-v2"]
fn embeddings_with_8_bit_weights_are_near() -> Result<()> {
    let (exact, quantized) = (embed(&[])?, embed(&["--quantize", "int8"])?);
    ensure!(exact.len() == 200 && quantized.len() == 200);
    for (i, (x, y)) in exact.iter().zip(&quantized).enumerate() {
        let cosine: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
        ensure!((0.995..0.999_999).contains(&cosine), "sentence {}: {cosine}", i + 1);
    }
    Ok(())
}

#[test]
#[ignore = "needs TX_MINILM, the folder of all-MiniLM-L6-v2"]
fn embeddings_do_not_depend_on_the_threads() -> Result<()> {
    let (one, three) = (embed(&["--threads", "1"])?, embed(&["--threads", "3"])?);
    for (x, y) in one.iter().flatten().zip(three.iter().flatten()) {
        ensure!((x - y).abs() < 1e-6, "{x} and {y}");
    }
    Ok(())
}
