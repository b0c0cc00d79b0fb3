//! The workloads: what is measured, how its sides are started, and what these have to agree in.
//!
//! A workload is a line of [`WORKLOADS`]; one of a new kind is a variant of [`Workload`], which says how its sides are
//! started, and the work of a worker.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::bound::{Cost, Weights};
use super::inputs::{self, SENTENCE, gguf, minilm, onnx, synthetic};
use super::media::Media;
use super::report::Difference;
use super::side::{Program, Side, Worker};
use super::{Setup, python};

/// Tokens in the cache before others are decoded.
const PROMPT: usize = 16;

/// What is measured.
#[derive(Clone, Copy)]
pub enum Workload {
    /// The forward pass of BERT-base with weights from a hash.
    Forward { batch: usize, seq: usize, int8: bool },
    /// An update of all weights of BERT-base, which are from a hash.
    Train { batch: usize, seq: usize },
    /// An update of LoRA on all layers of a LLaMA with weights from a hash.
    Lora { model: &'static str, bf16: bool, batch: usize, seq: usize },
    /// A prompt through a LLaMA with weights from a hash, up to the scores of what follows.
    Prefill { model: &'static str, bf16: bool, prompt: usize },
    /// Tokens of each row through it, one after another, each the most probable one; a prompt is in the cache.
    Decode { model: &'static str, bf16: bool, batch: usize, steps: usize },
    /// Pictures or sounds, made of numbers, through a model with weights from a hash.
    Media(&'static str, Media),
    /// Sentence embeddings of all-MiniLM-L6-v2, from text to vectors.
    Embed { sentences: usize },
    /// A whole program, from its start to the embedding of one sentence.
    Start,
}

/// Every workload by its name.
pub static WORKLOADS: &[(&str, Workload)] = &[
    ("bert-f32-1x16", Workload::Forward { batch: 1, seq: 16, int8: false }),
    ("bert-f32-1x128", Workload::Forward { batch: 1, seq: 128, int8: false }),
    ("bert-f32-1x512", Workload::Forward { batch: 1, seq: 512, int8: false }),
    ("bert-f32-8x128", Workload::Forward { batch: 8, seq: 128, int8: false }),
    ("bert-int8-1x16", Workload::Forward { batch: 1, seq: 16, int8: true }),
    ("bert-int8-1x128", Workload::Forward { batch: 1, seq: 128, int8: true }),
    ("bert-int8-1x512", Workload::Forward { batch: 1, seq: 512, int8: true }),
    ("bert-int8-8x128", Workload::Forward { batch: 8, seq: 128, int8: true }),
    ("bert-train-8x128", Workload::Train { batch: 8, seq: 128 }),
    ("llama-135m-f32-decode", Workload::Decode { model: "llama-135m", bf16: false, batch: 1, steps: 32 }),
    ("llama-135m-f32-decode8", Workload::Decode { model: "llama-135m", bf16: false, batch: 8, steps: 32 }),
    ("llama-135m-bf16-decode", Workload::Decode { model: "llama-135m", bf16: true, batch: 1, steps: 32 }),
    ("llama-135m-bf16-decode8", Workload::Decode { model: "llama-135m", bf16: true, batch: 8, steps: 32 }),
    ("llama-135m-bf16-prefill", Workload::Prefill { model: "llama-135m", bf16: true, prompt: 512 }),
    ("llama-135m-f32-lora-8x128", Workload::Lora { model: "llama-135m", bf16: false, batch: 8, seq: 128 }),
    ("llama-135m-bf16-lora-8x128", Workload::Lora { model: "llama-135m", bf16: true, batch: 8, seq: 128 }),
    ("llama-1b-bf16-decode", Workload::Decode { model: "llama-1b", bf16: true, batch: 1, steps: 8 }),
    ("llama-1b-bf16-prefill", Workload::Prefill { model: "llama-1b", bf16: true, prompt: 512 }),
    ("vit-b16-1", Workload::Media("vit-b16", Media::Classify { batch: 1 })),
    ("vit-b16-8", Workload::Media("vit-b16", Media::Classify { batch: 8 })),
    ("clip-b32", Workload::Media("clip-b32", Media::Compare { texts: 4, seq: 16 })),
    ("resnet-50", Workload::Media("resnet-50", Media::Classify { batch: 1 })),
    ("whisper-base-encode", Workload::Media("whisper-base", Media::Encode)),
    ("whisper-base-decode", Workload::Media("whisper-base", Media::Decode { prompt: 4, steps: 64 })),
    ("wav2vec2-base-10s", Workload::Media("wav2vec2-base", Media::Ctc { samples: 160_000 })),
    ("minilm-1", Workload::Embed { sentences: 1 }),
    ("minilm-1000", Workload::Embed { sentences: 1000 }),
    ("start", Workload::Start),
];

/// The workloads of these names, in the order of the table; a name stands for all that begin with it and a hyphen, and
/// no name for all there are.
pub fn select(names: &[String]) -> Result<Vec<(&'static str, Workload)>> {
    let stands_for = |name: &str, workload: &str| {
        workload.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for name in names {
        let known: Vec<_> = WORKLOADS.iter().map(|(known, _)| *known).collect();
        ensure!(
            known.iter().any(|known| stands_for(name, known)),
            "no workload `{name}`; there are {}",
            known.join(", ")
        );
    }
    let wanted = |workload: &str| names.is_empty() || names.iter().any(|name| stands_for(name, workload));
    Ok(WORKLOADS.iter().copied().filter(|(workload, _)| wanted(workload)).collect())
}

/// Whom tx is measured against.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Peer {
    /// PyTorch with transformers, or with sentence-transformers.
    Torch,
    /// ONNX Runtime, for forward passes of encoders.
    OnnxRuntime,
    /// llama.cpp, for language models.
    LlamaCpp,
}

impl Peer {
    /// The peers of these names; none for `none` or nothing.
    pub fn select(names: &[String]) -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for name in names {
            let peer = match name.as_str() {
                "torch" => Self::Torch,
                "onnxruntime" => Self::OnnxRuntime,
                "llama.cpp" => Self::LlamaCpp,
                "" | "none" => continue,
                _ => bail!("no peer `{name}`; there are torch, onnxruntime and llama.cpp, and none"),
            };
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        Ok(peers)
    }
}

/// tx, and then its peers.
type Sides = Vec<Box<dyn Side>>;

impl Workload {
    /// Starts tx, which comes first, and those peers that can do this; with what it costs at least.
    pub fn start(self, peers: &[Peer], setup: &Setup) -> Result<(Sides, Option<Cost>)> {
        let output = setup.scratch.path().join("output");
        let mut sides: Vec<Box<dyn Side>> = Vec::new();
        let cost = match self {
            Self::Forward { batch, seq, int8 } => {
                let model = synthetic("bert-base", false)?;
                let arguments = |mut command: Command| {
                    command.arg("--model").arg(&model);
                    command.args(["--batch", &batch.to_string(), "--seq", &seq.to_string()]);
                    command
                };
                let mut tx = setup.tx();
                tx.arg("forward");
                let tx = Worker::start(arguments(tx).args(int8.then_some("--int8")), output.clone())?;
                let cost = Cost::encoder(&model, &tx.lengths, if int8 { Weights::Int8 } else { Weights::F32 })?;
                sides.push(Box::new(tx));
                for peer in peers {
                    let mut command = match peer {
                        // In f32 even beside int8: it quantizes no model that was not prepared for that.
                        Peer::Torch => arguments(setup.python("torch_forward.py")?),
                        Peer::OnnxRuntime => {
                            let onnx = onnx(&model, setup)?;
                            let mut command = arguments(setup.python("onnxruntime_forward.py")?);
                            command.arg("--onnx").arg(onnx).args(int8.then_some("--int8"));
                            command
                        }
                        Peer::LlamaCpp => continue,
                    };
                    command.args(["--threads", &setup.threads.to_string()]);
                    sides.push(Box::new(Worker::start(&mut command, output.clone())?));
                }
                Some(cost)
            }
            Self::Train { batch, seq } => {
                let model = synthetic("bert-base", false)?;
                let arguments = |mut command: Command| {
                    command.arg("--model").arg(&model);
                    command.args(["--batch", &batch.to_string(), "--seq", &seq.to_string()]);
                    command
                };
                let mut tx = setup.tx();
                tx.arg("train");
                let tx = Worker::start(&mut arguments(tx), output.clone())?;
                let cost = Cost::encoder(&model, &tx.lengths, Weights::F32)?.with_gradients();
                sides.push(Box::new(tx));
                if peers.contains(&Peer::Torch) {
                    let mut command = arguments(setup.python("torch_train.py")?);
                    command.args(["--threads", &setup.threads.to_string()]);
                    sides.push(Box::new(Worker::start(&mut command, output.clone())?));
                }
                Some(cost)
            }
            Self::Lora { model, bf16, batch, seq } => {
                let model = synthetic(model, bf16)?;
                let arguments = |mut command: Command| {
                    command.arg("--model").arg(&model);
                    command.args(["--batch", &batch.to_string(), "--seq", &seq.to_string()]);
                    command
                };
                let mut tx = setup.tx();
                tx.arg("lora");
                sides.push(Box::new(Worker::start(&mut arguments(tx), output.clone())?));
                if peers.contains(&Peer::Torch) {
                    let mut command = arguments(setup.python("torch_lora.py")?);
                    command.args(["--dtype", if bf16 { "bf16" } else { "f32" }]);
                    command.args(["--threads", &setup.threads.to_string()]);
                    sides.push(Box::new(Worker::start(&mut command, output.clone())?));
                }
                Some(Cost::decoder_with_adapters(&model, batch, seq, if bf16 { Weights::Bf16 } else { Weights::F32 })?)
            }
            Self::Prefill { model, bf16, prompt } => {
                return Generation { model, bf16, batch: 1, prompt, steps: 0 }.start(peers, setup);
            }
            Self::Decode { model, bf16, batch, steps } => {
                return Generation { model, bf16, batch, prompt: PROMPT, steps }.start(peers, setup);
            }
            Self::Media(model, media) => {
                let model = synthetic(model, false)?;
                let arguments = |mut command: Command| {
                    command.arg("--model").arg(&model).args(media.arguments());
                    command
                };
                let mut tx = setup.tx();
                tx.arg("media");
                sides.push(Box::new(Worker::start(&mut arguments(tx), output.clone())?));
                for peer in peers {
                    let mut command = match peer {
                        Peer::Torch => setup.python("torch_media.py")?,
                        Peer::OnnxRuntime if media.has_onnx() => {
                            let onnx = onnx(&model, setup)?;
                            let mut command = setup.python("onnxruntime_media.py")?;
                            command.arg("--onnx").arg(onnx);
                            command
                        }
                        Peer::OnnxRuntime | Peer::LlamaCpp => continue,
                    };
                    command.args(["--threads", &setup.threads.to_string()]);
                    sides.push(Box::new(Worker::start(&mut arguments(command), output.clone())?));
                }
                Some(media.cost(&model)?)
            }
            Self::Embed { sentences } => {
                let model = minilm()?;
                let texts = setup.scratch.path().join("texts.txt");
                fs::write(&texts, inputs::sentences(sentences)).with_context(|| texts.display().to_string())?;
                let arguments = |command: &mut Command| {
                    command.arg("--model").arg(&model).arg("--texts").arg(&texts);
                };
                let mut tx = setup.tx();
                arguments(tx.arg("embed"));
                let tx = Worker::start(&mut tx, output.clone())?;
                let cost = Cost::encoder(&model, &tx.lengths, Weights::F32)?;
                sides.push(Box::new(tx));
                if peers.contains(&Peer::Torch) {
                    let mut command = setup.python("sentence_transformers_embed.py")?;
                    arguments(command.args(["--threads", &setup.threads.to_string()]));
                    sides.push(Box::new(Worker::start(&mut command, output)?));
                }
                Some(cost)
            }
            Self::Start => {
                let model = minilm()?;
                let mut command = setup.command(setup.release.join("tx"));
                command.args(["embed", "--json", "--device", &setup.device, "--model"]).arg(&model).arg(SENTENCE);
                sides.push(Box::new(Program { name: format!("tx {}", env!("CARGO_PKG_VERSION")), command }));
                if peers.contains(&Peer::Torch) {
                    let name = version(setup, "sentence-transformers")?;
                    let mut command = setup.python("sentence_transformers_once.py")?;
                    command.arg(&model).arg(SENTENCE);
                    sides.push(Box::new(Program { name, command }));
                }
                None
            }
        };
        Ok((sides, cost))
    }

    /// How many vectors of equal length the numbers of a side are, each of which has to agree.
    pub fn rows(self) -> usize {
        match self {
            Self::Forward { .. } | Self::Train { .. } | Self::Lora { .. } | Self::Prefill { .. } | Self::Start => 1,
            Self::Decode { batch, .. } => batch,
            Self::Media(_, media) => media.rows(),
            Self::Embed { sentences } => sentences,
        }
    }

    /// Fails where two sides do not compute the same. With int8 on one side or on both, directions are alike at most.
    /// Where weights are bf16, peers round what they multiply to it, which PyTorch's scores differ by 2 % for; and
    /// llama.cpp keeps keys and values in f16.
    pub fn check(self, difference: &Difference) -> Result<()> {
        let (holds, expected) = match self {
            Self::Forward { int8: false, .. } | Self::Train { .. } | Self::Media(..) => {
                (difference.relative_l2 <= 1e-3, "a relative L2 of at most 1e-3")
            }
            Self::Lora { bf16, .. } if bf16 => (difference.relative_l2 <= 3e-2, "a relative L2 of at most 3e-2"),
            Self::Lora { .. } => (difference.relative_l2 <= 1e-3, "a relative L2 of at most 1e-3"),
            Self::Forward { int8: true, .. } => (difference.cosine >= 0.95, "a cosine of at least 0.95"),
            Self::Prefill { bf16: false, .. } | Self::Decode { bf16: false, .. } => {
                (difference.relative_l2 <= 2e-3, "a relative L2 of at most 2e-3")
            }
            Self::Prefill { bf16: true, .. } | Self::Decode { bf16: true, .. } => {
                (difference.relative_l2 <= 3e-2, "a relative L2 of at most 3e-2")
            }
            Self::Embed { .. } | Self::Start => (difference.cosine > 0.999, "a cosine above 0.999"),
        };
        ensure!(holds, "{difference}, expected {expected}");
        Ok(())
    }
}

/// What the workers for language models are told; see `add_generation` in xtask/bench/worker.py.
struct Generation {
    model: &'static str,
    bf16: bool,
    batch: usize,
    prompt: usize,
    steps: usize,
}

impl Generation {
    fn start(self, peers: &[Peer], setup: &Setup) -> Result<(Sides, Option<Cost>)> {
        let Self { model, bf16, batch, prompt, steps } = self;
        let model = synthetic(model, bf16)?;
        let output = setup.scratch.path().join("output");
        let arguments = |mut command: Command| {
            command.arg("--model").arg(&model);
            for (name, size) in [("--batch", batch), ("--prompt", prompt), ("--steps", steps)] {
                command.args([name, &size.to_string()]);
            }
            command
        };
        let mut tx = setup.tx();
        tx.arg("generate");
        let mut sides: Sides = vec![Box::new(Worker::start(&mut arguments(tx), output.clone())?)];
        for peer in peers {
            let mut command = match peer {
                Peer::Torch => {
                    // Many tokens at once are multiplied in f32, as tx does it.
                    let dtype = if bf16 && steps > 0 { "bf16" } else { "f32" };
                    let mut command = arguments(setup.python("torch_generate.py")?);
                    command.args(["--dtype", dtype]);
                    command
                }
                Peer::OnnxRuntime => continue,
                Peer::LlamaCpp => {
                    let gguf = gguf(&model, setup)?;
                    let mut command = arguments(setup.llama_cpp("llama_cpp_generate.py")?);
                    command.arg("--gguf").arg(gguf);
                    command
                }
            };
            command.args(["--threads", &setup.threads.to_string()]);
            sides.push(Box::new(Worker::start(&mut command, output.clone())?));
        }
        let passes: Vec<_> = match steps {
            0 => vec![(0, prompt)],
            steps => (prompt..prompt + steps).map(|seen| (seen, 1)).collect(),
        };
        let cost = Cost::decoder(&model, batch, &passes, if bf16 { Weights::Bf16 } else { Weights::F32 })?;
        Ok((sides, Some(cost)))
    }
}

/// A package of Python with its version.
fn version(setup: &Setup, package: &str) -> Result<String> {
    let script = "import importlib.metadata as m, sys; print(sys.argv[1], m.version(sys.argv[1]), end='')";
    let output = setup.command(python()?).args(["-c", script, package]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Result<Vec<&'static str>> {
        let wanted: Vec<_> = wanted.iter().map(|&name| name.to_owned()).collect();
        Ok(select(&wanted)?.into_iter().map(|(name, _)| name).collect())
    }

    #[test]
    fn names_stand_for_themselves_and_for_groups() {
        assert_eq!(names(&[]).unwrap().len(), WORKLOADS.len());
        assert_eq!(names(&["start", "minilm-1"]).unwrap(), ["minilm-1", "start"]);
        assert_eq!(names(&["minilm"]).unwrap(), ["minilm-1", "minilm-1000"]);
        assert_eq!(names(&["bert-int8", "bert"]).unwrap().len(), 9);
        assert_eq!(names(&["llama-135m-bf16-decode"]).unwrap(), ["llama-135m-bf16-decode"]);
        assert_eq!(names(&["vit", "whisper-base-decode"]).unwrap(), ["vit-b16-1", "vit-b16-8", "whisper-base-decode"]);
        for unknown in ["bert-f3", "mini", ""] {
            let message = names(&["start", unknown]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("no workload `{unknown}`; there are bert-f32-1x16, ")), "{message}");
        }
    }

    #[test]
    fn peers_are_named_once_or_not_at_all() {
        let select = |names: &[&str]| Peer::select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(select(&["onnxruntime", "torch", "torch"]).unwrap(), [Peer::OnnxRuntime, Peer::Torch]);
        assert_eq!(select(&["llama.cpp"]).unwrap(), [Peer::LlamaCpp]);
        assert!(select(&[""]).unwrap().is_empty() && select(&["none"]).unwrap().is_empty());
        assert!(select(&["candle"]).unwrap_err().to_string().contains("no peer `candle`; there are torch"));
    }
}
