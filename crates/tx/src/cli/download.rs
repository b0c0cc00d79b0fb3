//! `tx download`: a model from the Hub into the cache.

use clap::Args;
use serde_json::json;
use tx_core::error::Result;

use super::Common;
use super::output::{print_json, print_line};

/// The arguments of `tx download`.
#[derive(Debug, Args)]
pub struct DownloadArgs {
    /// The repository: `owner/name[@revision]`
    #[arg(value_name = "REPO")]
    pub repo: String,
}

/// Runs the command.
///
/// # Errors
/// As [`tx_core::hub::resolve`].
pub fn run(args: &DownloadArgs, common: &Common) -> Result<()> {
    let folder = common.folder(&args.repo)?;
    let folder = folder.to_string_lossy();
    if common.json { print_json(&json!({ "folder": folder })) } else { print_line(&folder) }
}
