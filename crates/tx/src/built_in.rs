//! The models that ship with tx, which run without any network and where none is named: see `models/stories` and
//! `models/digits`, from which the compiler takes their files.

use std::path::{Path, PathBuf};

use tx_core::error::Result;
use tx_core::hub::{self, BuiltIn, HubOptions, Wanted};

/// A small language model that tells stories for children.
pub const STORIES: &str = "tx/stories";

/// A small classifier of handwritten digits.
pub const DIGITS: &str = "tx/digits";

/// The files of a folder of `models`, with their names.
macro_rules! files {
    ($folder:literal, $($file:literal),+ $(,)?) => {
        &[$((
            $file,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/", $folder, "/", $file)).as_slice(),
        )),+]
    };
}

/// Every model that ships with tx.
pub static MODELS: &[BuiltIn] = &[
    BuiltIn {
        id: DIGITS,
        files: files!("digits", "README.md", "config.json", "model.safetensors", "preprocessor_config.json"),
    },
    BuiltIn {
        id: STORIES,
        files: files!(
            "stories",
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        ),
    },
];

/// As [`hub::resolve`], for the models that ship with tx as well. A folder of the same name goes before.
///
/// # Errors
/// As [`hub::resolve`] and [`BuiltIn::folder`].
pub fn resolve(model: &str, wanted: Wanted, options: &HubOptions) -> Result<PathBuf> {
    match MODELS.iter().find(|built_in| built_in.id == model) {
        Some(built_in) if !Path::new(model).exists() => built_in.folder(options),
        _ => hub::resolve(model, wanted, options),
    }
}
