//! `tx forward`: one forward pass, from tensors in a file to tensors in a file.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value, json};
use tx_core::config::Config;
use tx_core::error::{Error, Result};
use tx_core::registry::find_class;
use tx_core::task::{NamedTensors, Record};
use tx_core::weights::{Checkpoint, dtype_name, safetensors, save};

use super::Common;
use super::output::{print_json, print_table};

/// The arguments of `tx forward`.
#[derive(Debug, Args)]
pub struct ForwardArgs {
    /// A folder, or a model on the Hub: `owner/name[@revision]`
    #[arg(long, short)]
    pub model: String,
    /// A safetensors file with the arguments of HF's forward(), by name: input_ids, attention_mask …
    #[arg(long, value_name = "FILE")]
    pub inputs: PathBuf,
    /// The safetensors file to write: HF's output fields, by name
    #[arg(long, value_name = "FILE")]
    pub outputs: PathBuf,
    /// HF's name of the class [default: the first of `architectures` in config.json]
    #[arg(long)]
    pub class: Option<String>,
    /// Writes the hidden states too: hidden_states.0, the embeddings, and one of every layer
    #[arg(long)]
    pub hidden_states: bool,
    /// Writes the attention weights too: attentions.0 …
    #[arg(long)]
    pub attentions: bool,
}

/// Runs the command.
///
/// # Errors
/// [`Error::Unknown`] for an unknown architecture or class; [`Error::Input`] for tensors that do not fit the model;
/// everything that loading and writing can report.
pub fn run(args: &ForwardArgs, common: &Common) -> Result<()> {
    check_output(&args.outputs)?;
    let options = common.load_options()?;
    let inputs: NamedTensors =
        safetensors::read(&args.inputs)?.into_iter().map(|(name, tensor)| (name, tensor.to_data())).collect();
    let folder = common.folder(&args.model)?;
    let config = Config::from_folder(&folder)?;
    let classes = tx::classes();
    let class = find_class(&classes, &config, args.class.as_deref())?;
    let auto = class.load_named(config, &Checkpoint::from_folder(&folder)?, &options)?;
    let record = Record::new(args.hidden_states, args.attentions);
    let outputs = auto.forward_named(&inputs, record)?;
    let shapes: Vec<_> = outputs
        .iter()
        .map(|(name, data)| (name.clone(), dtype_name(data.dtype()), data.shape().as_slice().to_vec()))
        .collect();
    save::write_file(&args.outputs, outputs)?;
    if common.json {
        let tensors: Map<String, Value> =
            shapes.into_iter().map(|(name, dtype, shape)| (name, json!({ "dtype": dtype, "shape": shape }))).collect();
        let document = json!({ "class": auto.class, "outputs": args.outputs.to_string_lossy(), "tensors": tensors });
        return print_json(&document);
    }
    let rows: Vec<_> =
        shapes.into_iter().map(|(name, dtype, shape)| vec![name, dtype.to_owned(), format!("{shape:?}")]).collect();
    print_table(&["output", "dtype", "shape"], &rows)
}

/// The file is replaced as a whole, which would be wrong for a device or a folder.
fn check_output(path: &Path) -> Result<()> {
    if !path.exists() || path.is_file() {
        return Ok(());
    }
    Err(Error::input("--outputs", format_args!("`{}`", path.display()), "the path of a new or ordinary file"))
}
