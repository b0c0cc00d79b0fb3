//! Tasks around one architecture: its checkpoint's keys, synthetic weights, and a first file.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tx_core::config::Config;
use tx_core::registry::find_class;
use tx_core::weights::synth::Recipe;
use tx_core::weights::{Checkpoint, dtype_name};

use crate::root;

/// The crates that have architectures.
const CRATES: [&str; 4] = ["tx-text", "tx-vision", "tx-audio", "tx-multimodal"];

/// Write a synthetic checkpoint.
#[derive(Args)]
pub struct SynthArgs {
    /// A recorded case, or a `config.json` of any supported architecture.
    source: PathBuf,
    /// The folder to write.
    out: PathBuf,
    /// The element type: f32, bf16 or f16. A recorded case has its own.
    #[arg(long, default_value = "f32")]
    dtype: String,
    /// The size above which another file is begun, in bytes.
    #[arg(long, default_value_t = 5_000_000_000)]
    max_shard_size: u64,
}

pub fn synth(args: &SynthArgs) -> Result<()> {
    let (config, recipe) = if args.source.is_dir() {
        (args.source.join("config.json"), Recipe::from_file(&args.source.join("weights.json"))?)
    } else {
        let config = Config::from_file(&args.source)?;
        let class = find_class(&tx::classes(), &config, None)?;
        let recipe = Recipe::from_parameters(&args.source, class.parameters(&config)?, args.dtype.parse()?);
        (args.source.clone(), recipe)
    };
    fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    recipe.write(&args.out, args.max_shard_size)?;
    fs::copy(&config, args.out.join("config.json")).with_context(|| config.display().to_string())?;
    println!("{} bytes in {}", recipe.bytes(), args.out.display());
    Ok(())
}

/// Print tensor names as a tree.
#[derive(Args)]
pub struct KeysArgs {
    /// A weight file, an index, or a folder.
    source: PathBuf,
}

/// Names level by level; runs of numbered layers with the same tensors are shown once.
pub fn keys(args: &KeysArgs) -> Result<()> {
    let checkpoint = if args.source.is_dir() {
        Checkpoint::from_folder(&args.source)?
    } else {
        Checkpoint::from_file(&args.source)?
    };
    let mut tree = Tree::default();
    for (name, tensor) in checkpoint.tensors() {
        let leaf = name.split('.').fold(&mut tree, |node, segment| node.0.entry(segment.to_owned()).or_default());
        leaf.1 = Some(format!("{} {:?}", dtype_name(tensor.dtype), tensor.shape));
    }
    tree.print(0);
    Ok(())
}

/// Children by segment, and what stands here if it is a tensor.
#[derive(Default, PartialEq)]
struct Tree(BTreeMap<String, Tree>, Option<String>);

impl Tree {
    fn print(&self, depth: usize) {
        let mut children: Vec<_> = self.0.iter().collect();
        children.sort_by_key(|(name, _)| (name.parse::<u64>().ok(), name.as_str()));
        let mut i = 0;
        while i < children.len() {
            let (name, tree) = children[i];
            let number = |name: &str| name.parse::<u64>().ok();
            let same = children[i..].iter().take_while(|(n, t)| number(n).is_some() && *t == tree).count();
            let label = if same > 1 { format!("{name}..{}", children[i + same - 1].0) } else { name.clone() };
            println!("{}{label}{}", "  ".repeat(depth), tree.1.as_ref().map(|t| format!(": {t}")).unwrap_or_default());
            tree.print(depth + 1);
            i += same.max(1);
        }
    }
}

/// Start a new architecture.
#[derive(Args)]
pub struct NewModelArgs {
    /// HF's `model_type` of the new architecture.
    model_type: String,
    /// The architecture to start from.
    #[arg(long)]
    like: String,
    /// HF's class prefix of the new architecture, `XLNet` for example; from the model type if it is not given.
    #[arg(long)]
    prefix: Option<String>,
}

/// Copies the file, the table lines and `model.toml` of `--like`, with the names changed.
pub fn new_model(args: &NewModelArgs) -> Result<()> {
    let module = |model_type: &str| model_type.replace('-', "_");
    let (old, new) = (module(&args.like), module(&args.model_type));
    ensure!(args.model_type.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)), "not a `model_type`");
    let mut rooms = CRATES.iter().map(|name| root().join("crates").join(name).join("src/models"));
    let models = rooms
        .find(|models| models.join(format!("{old}.rs")).is_file())
        .with_context(|| format!("no architecture `{}`; {old}.rs is in none of {}", args.like, CRATES.join(", ")))?;
    let source = models.join(format!("{old}.rs"));
    let target = models.join(format!("{new}.rs"));
    ensure!(!target.exists(), "{} is there already", target.display());

    let text = fs::read_to_string(&source)?;
    let class = text.split("pub struct ").nth(1).and_then(|t| t.split("Config").next());
    let old_prefix = class.context("no `pub struct …Config` in the file to start from")?;
    let camel = |name: &str| name.split(['-', '_']).map(|w| w[..1].to_uppercase() + &w[1..]).collect::<String>();
    let new_prefix = args.prefix.clone().unwrap_or_else(|| camel(&args.model_type));
    fs::write(&target, text.replace(old_prefix, &new_prefix))?;

    let stages = models.join(&old);
    if stages.is_dir() {
        fs::create_dir_all(models.join(&new))?;
        for entry in fs::read_dir(&stages)? {
            let stage = entry?.path();
            let copy = models.join(&new).join(stage.file_name().unwrap_or_default());
            fs::write(copy, fs::read_to_string(&stage)?.replace(old_prefix, &new_prefix))?;
        }
    }

    let table = models.join("mod.rs");
    let mut lines = Vec::new();
    for line in fs::read_to_string(&table)?.lines() {
        lines.push(line.to_owned());
        if line == format!("mod {old};") {
            lines.push(format!("mod {new};"));
        } else if line.contains(&format!("\"{}\"", args.like)) {
            let line = line.replace(&format!("\"{}\"", args.like), &format!("\"{}\"", args.model_type));
            lines.push(line.replace(&format!("{old}::"), &format!("{new}::")).replace(old_prefix, &new_prefix));
        }
    }
    fs::write(&table, lines.join("\n") + "\n")?;

    let data = root().join("models").join(&args.model_type);
    fs::create_dir_all(&data)?;
    let toml = fs::read_to_string(root().join("models").join(&args.like).join("model.toml"))?;
    let toml = toml.replace(&format!("\"{}\"", args.like), &format!("\"{}\"", args.model_type));
    fs::write(data.join("model.toml"), toml.replace(old_prefix, &new_prefix))?;
    println!("{}\n{}\n{}", target.display(), table.display(), data.join("model.toml").display());
    println!("next: sort the new lines, edit the three files, add cases to xtask/reference/cases,");
    println!("then: cargo xtask reference {0} && cargo test --workspace --test conformance -- {0}", args.model_type);
    Ok(())
}
