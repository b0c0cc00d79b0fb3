//! `tx models`: the architectures and their heads.

use std::collections::BTreeMap;

use serde::Serialize;
use tx_core::error::Result;
use tx_core::registry::Class;

use super::Common;
use super::output::{print_json, print_table};

/// One architecture.
#[derive(Serialize)]
struct Architecture {
    model_type: &'static str,
    classes: Vec<Head>,
}

/// One class of an architecture.
#[derive(Serialize)]
pub(super) struct Head {
    /// HF's name of the class.
    pub class: &'static str,
    /// What it computes, in words.
    pub task: &'static str,
}

impl Head {
    pub(super) fn new(class: &dyn Class) -> Self {
        Self { class: class.class(), task: class.task() }
    }
}

/// Runs the command.
///
/// # Errors
/// [`Error::Io`](tx_core::Error::Io) if standard output cannot be written.
pub fn run(common: &Common) -> Result<()> {
    let mut by_type = BTreeMap::<&str, Vec<Head>>::new();
    for class in tx::classes() {
        by_type.entry(class.model_type()).or_default().push(Head::new(class));
    }
    let architectures: Vec<_> =
        by_type.into_iter().map(|(model_type, classes)| Architecture { model_type, classes }).collect();
    if common.json {
        return print_json(&architectures);
    }
    let heads = |classes: &[Head]| classes.iter().map(|head| head.task).collect::<Vec<_>>().join(", ");
    let rows: Vec<_> = architectures.iter().map(|a| vec![a.model_type.to_owned(), heads(&a.classes)]).collect();
    print_table(&["model type", "heads"], &rows)
}
