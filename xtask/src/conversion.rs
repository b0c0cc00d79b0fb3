//! `cargo xtask convert`: the words of the command line for [`tx_core::weights::convert`].

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use tx_core::device::Dtype;
use tx_core::progress::Progress;
use tx_core::weights::convert::{ConvertOptions, Format};

/// Convert a checkpoint.
#[derive(Args)]
pub struct ConvertArgs {
    /// A folder or file: safetensors, PyTorch `.bin` or burnpack `.bpk`.
    source: PathBuf,
    /// The folder to write.
    target: PathBuf,
    /// The file format to write.
    #[arg(long, value_enum, default_value = "safetensors")]
    format: FormatName,
    /// The element type of floating-point tensors: keep, f32, f16 or bf16.
    #[arg(long, default_value = "keep")]
    dtype: String,
    /// The size above which another file is begun: bytes, or a number with KB, MB or GB.
    #[arg(long, default_value = "5GB", value_parser = size)]
    max_shard_size: u64,
    /// Replace weights that are in the target folder.
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    Safetensors,
    Pytorch,
    Burnpack,
}

pub fn convert(args: &ConvertArgs) -> Result<()> {
    let options = ConvertOptions {
        format: match args.format {
            FormatName::Safetensors => Format::Safetensors,
            FormatName::Pytorch => Format::PyTorch,
            FormatName::Burnpack => Format::Burnpack,
        },
        dtype: if args.dtype == "keep" { None } else { args.dtype.parse::<Dtype>()?.to_burn() },
        max_shard_size: args.max_shard_size,
        force: args.force,
    };
    let mut bar = None;
    let report = tx_core::weights::convert::convert(&args.source, &args.target, &options, &mut |done, total| {
        bar.get_or_insert_with(|| Progress::bytes("converting", total, true)).set(done);
    })?;
    drop(bar);
    for file in report.files.iter().chain(&report.companions) {
        println!("{}", file.display());
    }
    eprintln!("{} tensors, {} converted, {} bytes, verified", report.tensors, report.converted, report.bytes);
    Ok(())
}

/// `5GB` and the like: decimal units, as Python's `max_shard_size`.
fn size(text: &str) -> Result<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[digits..].trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        other => anyhow::bail!("`{other}` is not a unit; use B, KB, MB or GB"),
    };
    let number: u64 = text[..digits].parse().context("expected a number such as 5GB")?;
    number.checked_mul(unit).filter(|&n| n > 0).context("out of range")
}
