//! The gate, and the run on a GPU that stays outside of it.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::{cache, cargo, codegen, run, tidy};

/// Cheapest first; everything with one feature set, so that burn is compiled once, but for the feature `mpi` at the end.
pub fn ci() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    tidy::tidy()?;
    codegen::codegen(true)?;
    run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    run(cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    // The command-line tests run the program.
    run(cargo().args(["build", "--workspace"]))?;
    run(cargo().args(["test", "--workspace"]))?;
    // Tests on real checkpoints need what the gate has fetched.
    if std::env::var_os("TX_MINILM").is_some() {
        run(cargo().args(["test", "--workspace", "--test", "minilm", "--test", "pipelines", "--", "--ignored"]))?;
    }
    if std::env::var_os("TX_STORIES").is_some() {
        run(cargo().args(["test", "--workspace", "--test", "stories", "--", "--ignored"]))?;
    }
    // Training on several processes has a feature of its own, which takes Open MPI and libclang to compile.
    if Command::new("mpirun").arg("--version").output().is_ok() {
        let mpi = ["--workspace", "--features", "tx-tests/mpi"];
        run(cargo().arg("clippy").args(mpi).args(["--all-targets", "--", "-D", "warnings"]))?;
        run(cargo().arg("build").args(mpi))?;
        run(cargo().arg("test").args(mpi).args(["--test", "distributed"]))?;
    }
    Ok(())
}

/// Run the recorded cases on a GPU.
#[derive(Args)]
pub struct GpuArgs {
    /// The backend's feature, which is also its device name.
    #[arg(default_value = "wgpu")]
    backend: String,
    /// Run only the cases whose name contains this.
    #[arg(default_value = "")]
    filter: String,
}

/// The conformance cases on another device, against the same references, within 1e-3.
pub fn gpu(args: &GpuArgs) -> Result<()> {
    let features = format!("tx-tests/{}", args.backend);
    let target = cache()?.join(format!("target-{}", args.backend));
    run(cargo()
        .args(["test", "--workspace", "--features", &features, "--test", "conformance", "--", &args.filter])
        .env("CARGO_TARGET_DIR", target)
        .env("TX_TEST_DEVICE", &args.backend))
}
