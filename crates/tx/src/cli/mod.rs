//! The commands of `tx`, the options that all of them have, and how they end.
//!
//! A command returns an [`Error`](tx_core::Error), and [`main`] prints it as one line; a panic of a dependency is caught and printed in
//! the same way. Exit code 0 is success, 1 is a failure and 2 is a command line that cannot be understood.

mod adapter;
mod bench;
mod chat;
mod download;
mod embed;
mod forward;
mod generate;
mod generation;
mod info;
mod models;
mod output;
mod run;
mod train;

use std::any::Any;
use std::io::{self, Write};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;
use tx::built_in;
use tx_core::error::{Error, Result};
use tx_core::hub::{self, HubOptions, Wanted};
use tx_core::registry::{Attach, LoadOptions};
use tx_core::{device, threads};
use tx_train::peft::{AdapterFolder, AttachAdapters};

/// Hugging Face Transformers for Rust: loads checkpoints as they lie on the Hub and runs them, without Python.
#[derive(Parser)]
#[command(name = "tx", version, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a task on texts, pictures or sounds, by the name of Python's pipeline
    Run(Box<run::RunArgs>),
    /// Continues texts with a language model
    Generate(Box<generate::GenerateArgs>),
    /// Talks with a model that has a chat template
    Chat(Box<chat::ChatArgs>),
    /// Turns texts into vectors, as sentence-transformers does, or pictures and sounds beside texts
    Embed(embed::EmbedArgs),
    /// Runs one forward pass, from tensors in a file to tensors in a file
    Forward(forward::ForwardArgs),
    /// Fine-tunes a model on files of rows, as a configuration file says
    Train(Box<train::TrainArgs>),
    /// Judges a model on files of rows
    Eval(train::EvalArgs),
    /// Puts adapters into the weights of a model, or says what one is
    Adapter(adapter::AdapterArgs),
    /// Says what a model is and what can be done with it
    Info(info::InfoArgs),
    /// Lists the architectures and their heads
    Models,
    /// Gets a model from the Hub into the cache and prints its folder
    Download(download::DownloadArgs),
    /// Measures how fast a model is on this machine
    Bench(bench::BenchArgs),
}

/// The options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Common options")]
pub struct Common {
    /// Where to compute: cpu, or wgpu[:N], vulkan[:N], metal[:N], cuda[:N], rocm[:N] where built with it
    #[arg(long, global = true, default_value = "cpu")]
    pub device: String,
    /// The dtype of the weights; `auto` is that of the file
    #[arg(long, global = true, default_value = "auto", value_parser = ["auto", "f32", "bf16", "f16"])]
    pub dtype: String,
    /// Computes with 8-bit weights, made while loading
    #[arg(long, global = true, value_name = "FORMAT", value_parser = ["int8"])]
    pub quantize: Option<String>,
    /// How many threads compute [default: TX_NUM_THREADS, or one for each physical core]
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
    /// Never uses the network: models are folders, or in the cache
    #[arg(long, global = true)]
    pub offline: bool,
    /// Prints one JSON document in place of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Puts an adapter of `peft` on the model, whose folder this is; may be given several times. With weights, several
    /// become one that adds them up
    #[arg(long, global = true, value_name = "FOLDER[=WEIGHT]")]
    pub adapter: Vec<AdapterFolder>,
}

impl Common {
    /// `--device`, `--dtype` and `--quantize`.
    ///
    /// # Errors
    /// [`Error::Device`](tx_core::Error::Device) if there is no such device.
    pub fn load_options(&self) -> Result<LoadOptions> {
        let quantize = self.quantize.as_deref().map(str::parse).transpose()?;
        let attach = (!self.adapter.is_empty()).then(|| self.adapters(false));
        Ok(LoadOptions { device: device::device(&self.device)?, dtype: self.dtype.parse()?, quantize, attach })
    }

    /// What puts the adapters on a model as it is loaded, or into its weights.
    fn adapters(&self, merge: bool) -> Arc<dyn Attach> {
        Arc::new(AttachAdapters { folders: self.adapter.clone(), merge })
    }

    /// The same options for another model, which has no adapters.
    pub fn without_adapters(&self) -> Self {
        Self { adapter: Vec::new(), ..self.clone() }
    }

    /// What the environment says about the Hub, and `--offline`.
    pub fn hub_options(&self) -> HubOptions {
        let options = HubOptions::from_env();
        HubOptions { offline: options.offline || self.offline, ..options }
    }

    /// The folder of a model, with its weights: unpacked or downloaded if need be.
    ///
    /// # Errors
    /// As [`built_in::resolve`].
    pub fn folder(&self, model: &str) -> Result<PathBuf> {
        built_in::resolve(model, Wanted::Full, &self.hub_options())
    }
}

/// Where the last panic was; it is printed only if nobody turns the panic into an error.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Runs the command line.
pub fn main() -> ExitCode {
    let Cli { command, common } = Cli::parse();
    log_warnings();
    panic::set_hook(Box::new(|info| {
        if let Ok(mut place) = PANIC.lock() {
            *place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
        }
    }));
    let ended = panic::catch_unwind(AssertUnwindSafe(|| command.run(&common)));
    hub::remove_temporary();
    match ended {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => fail(&error.to_string()),
        Err(payload) => {
            let place = PANIC.lock().map(|place| place.clone()).unwrap_or_default();
            fail(&format!("this is a bug of tx, please report it: {}{place}", panic_text(payload.as_ref())))
        }
    }
}

impl Command {
    /// Runs the command. The code is that of success, but for runs that were interrupted.
    fn run(&self, common: &Common) -> Result<ExitCode> {
        threads::init(common.threads)?;
        let computes = !matches!(self, Self::Train(_) | Self::Info(_) | Self::Models | Self::Download(_));
        if !common.adapter.is_empty() && !computes {
            let expected = "it where a model computes; `tx train` has adapters in the table `peft` of its file";
            return Err(Error::input("--adapter", "given", expected));
        }
        match self {
            Self::Run(args) => threads::run(|| run::run(args, common)),
            Self::Generate(args) => threads::run(|| generate::run(args, common)),
            Self::Chat(args) => threads::run(|| chat::run(args, common)),
            Self::Embed(args) => threads::run(|| embed::run(args, common)),
            Self::Forward(args) => threads::run(|| forward::run(args, common)),
            Self::Train(args) => return threads::run(|| train::train(args, common)),
            Self::Eval(args) => threads::run(|| train::eval(args, common)),
            Self::Adapter(args) => threads::run(|| adapter::run(args, common)),
            Self::Info(args) => info::run(args, common),
            Self::Models => models::run(common),
            Self::Download(args) => download::run(args, common),
            Self::Bench(args) => threads::run(|| bench::run(args, common)),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the one line of a failure. That it cannot be printed is nothing that could be told to anybody.
fn fail(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{}", output::error_line(message));
    ExitCode::FAILURE
}

/// What a panic says.
fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no reason given")
}

/// Prints warnings to stderr, and more with `TX_LOG=debug` or `TX_LOG=tx_core=trace`.
fn log_warnings() {
    const WARNINGS: &str = "off,tx=warn,tx_audio=warn,tx_core=warn,tx_generate=warn,tx_kernels=warn,\
                            tx_multimodal=warn,tx_text=warn,tx_train=warn,tx_vision=warn";
    let filter = EnvFilter::try_from_env("TX_LOG").unwrap_or_else(|_| EnvFilter::new(WARNINGS));
    // Only a second logger could be an error here, and this is the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .without_time()
        .try_init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use tx_core::weights::Quantization;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn common_options_may_stand_before_and_after_the_command() {
        for line in [["tx", "--json", "--offline", "models"], ["tx", "models", "--json", "--offline"]] {
            let Cli { common, .. } = Cli::try_parse_from(line).unwrap();
            assert!(common.json && common.offline && common.hub_options().offline);
            assert_eq!((common.device.as_str(), common.dtype.as_str()), ("cpu", "auto"));
            assert!(common.load_options().unwrap().attach.is_none());
            let LoadOptions { dtype, quantize, .. } = common.load_options().unwrap();
            assert_eq!((dtype, quantize, common.threads), (device::Dtype::Auto, None, None));
        }
        let line = ["tx", "--quantize", "int8", "models", "--threads", "3"];
        let Cli { common, .. } = Cli::try_parse_from(line).unwrap();
        assert_eq!((common.load_options().unwrap().quantize, common.threads), (Some(Quantization::Int8), Some(3)));
    }
}
