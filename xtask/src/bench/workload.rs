//! The workloads: what is measured, how its sides are started, and what these have to agree in.
//!
//! A workload is a line of [`WORKLOADS`]; one of a new kind is a variant of [`Workload`], which says how its sides are
//! started, and the work of a worker.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::bound::Cost;
use super::inputs::{self, SENTENCE, bert_base, minilm, onnx};
use super::report::Difference;
use super::side::{Program, Side, Worker};
use super::{Setup, python};

/// What is measured.
#[derive(Clone, Copy)]
pub enum Workload {
    /// The forward pass of BERT-base with weights from a hash.
    Forward { batch: usize, seq: usize, int8: bool },
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
    /// ONNX Runtime, for forward passes.
    OnnxRuntime,
}

impl Peer {
    /// The peers of these names; none for `none` or nothing.
    pub fn select(names: &[String]) -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for name in names {
            let peer = match name.as_str() {
                "torch" => Self::Torch,
                "onnxruntime" => Self::OnnxRuntime,
                "" | "none" => continue,
                _ => bail!("no peer `{name}`; there are torch and onnxruntime, and none"),
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
                let model = bert_base()?;
                let arguments = |mut command: Command| {
                    command.arg("--model").arg(&model);
                    command.args(["--batch", &batch.to_string(), "--seq", &seq.to_string()]);
                    command
                };
                let mut tx = setup.tx();
                tx.arg("forward");
                let tx = Worker::start(arguments(tx).args(int8.then_some("--int8")), output.clone())?;
                let cost = Cost::new(&model, &tx.lengths, int8)?;
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
                    };
                    command.args(["--threads", &setup.threads.to_string()]);
                    sides.push(Box::new(Worker::start(&mut command, output.clone())?));
                }
                Some(cost)
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
                let cost = Cost::new(&model, &tx.lengths, false)?;
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
            Self::Forward { .. } | Self::Start => 1,
            Self::Embed { sentences } => sentences,
        }
    }

    /// Fails where two sides do not compute the same. With int8 on one side or on both, directions are alike at most.
    pub fn check(self, difference: &Difference) -> Result<()> {
        let (holds, expected) = match self {
            Self::Forward { int8: false, .. } => (difference.relative_l2 <= 1e-3, "a relative L2 of at most 1e-3"),
            Self::Forward { int8: true, .. } => (difference.cosine >= 0.95, "a cosine of at least 0.95"),
            Self::Embed { .. } | Self::Start => (difference.cosine > 0.999, "a cosine above 0.999"),
        };
        ensure!(holds, "{difference}, expected {expected}");
        Ok(())
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
        assert_eq!(names(&["bert-int8", "bert"]).unwrap().len(), 8);
        for unknown in ["bert-f3", "mini", ""] {
            let message = names(&["start", unknown]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("no workload `{unknown}`; there are bert-f32-1x16, ")), "{message}");
        }
    }

    #[test]
    fn peers_are_named_once_or_not_at_all() {
        let select = |names: &[&str]| Peer::select(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(select(&["onnxruntime", "torch", "torch"]).unwrap(), [Peer::OnnxRuntime, Peer::Torch]);
        assert!(select(&[""]).unwrap().is_empty() && select(&["none"]).unwrap().is_empty());
        assert!(select(&["llama.cpp"]).unwrap_err().to_string().contains("no peer `llama.cpp`"));
    }
}
