//! Documents that are generated from the tables and from `models/*/model.toml`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tx_core::registry::Class;

use crate::{root, tidy};

const BEGIN: &str = "<!-- generated: architectures -->\n";
const END: &str = "<!-- end generated -->";

pub fn codegen(check: bool) -> Result<()> {
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).context("README.md: no generated table")?;
    let (_, after) = rest.split_once(END).context("README.md: the generated table has no end")?;
    let architectures = architectures()?;
    put(&readme, &format!("{before}{BEGIN}{}{END}{after}", table(&architectures)?), check)?;
    for architecture in &architectures {
        let path = root().join("docs/models").join(format!("{}.md", architecture.model_type));
        put(&path, &architecture.page()?, check)?;
    }
    Ok(())
}

/// Writes a file, or says that it is out of date.
fn put(path: &Path, text: &str, check: bool) -> Result<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    ensure!(!check, "{} is out of date; run `cargo xtask codegen`", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| path.display().to_string())
}

/// An architecture by its `model.toml`, with the classes of the tables; the towers of a model that joins modalities, whose
/// configs have types of their own, are part of it.
struct Architecture {
    model_type: String,
    path: PathBuf,
    toml: toml::Table,
    classes: Vec<(&'static str, &'static str)>,
}

impl Architecture {
    fn read(folder: &Path, all: &[&dyn Class]) -> Result<Self> {
        let path = folder.join("model.toml");
        let toml: toml::Table = fs::read_to_string(&path).with_context(|| path.display().to_string())?.parse()?;
        let model_type = toml.get("model_type").and_then(toml::Value::as_str).context("no `model_type`")?.to_owned();
        let towers = toml.get("model_types").and_then(toml::Value::as_array).into_iter().flatten();
        let types: Vec<&str> = std::iter::once(model_type.as_str()).chain(towers.filter_map(|t| t.as_str())).collect();
        let mut classes = Vec::new();
        for class in all.iter().filter(|class| types.contains(&class.model_type())) {
            let line = (class.class(), class.task());
            if !classes.contains(&line) {
                classes.push(line);
            }
        }
        Ok(Self { model_type, path, toml, classes })
    }

    /// A value of `model.toml`.
    fn string(&self, table: &toml::Table, key: &str) -> Result<String> {
        let value = table.get(key).with_context(|| format!("{}: no `{key}`", self.path.display()))?;
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// The page of `docs/models`.
    fn page(&self) -> Result<String> {
        let paper = self.toml.get("paper").and_then(toml::Value::as_table).context("no `paper`")?;
        let (name, reference) = (self.string(&self.toml, "name")?, self.string(&self.toml, "reference")?);
        let mut page = format!("# {name}\n\n");
        writeln!(page, "`model_type`: `{}`. Numbers equal those of {reference}.\n", self.model_type)?;
        let (title, year) = (self.string(paper, "title")?, self.string(paper, "year")?);
        // Not every architecture has a paper on arXiv.
        let place = match paper.get("url") {
            Some(_) => self.string(paper, "url")?,
            None => format!("arXiv:{}", self.string(paper, "arxiv")?),
        };
        writeln!(page, "Paper: {title} ({year}, {place}).\n\n| class | task |\n|---|---|")?;
        for (class, task) in &self.classes {
            writeln!(page, "| `{class}` | {task} |")?;
        }
        page.push_str("\nCheckpoints, for example:\n\n");
        for checkpoint in self.toml.get("checkpoints").and_then(toml::Value::as_array).context("no `checkpoints`")? {
            writeln!(page, "- `{}`", checkpoint.as_str().unwrap_or_default())?;
        }
        if let Some(notes) = self.toml.get("notes").and_then(toml::Value::as_str) {
            writeln!(page, "\n{notes}")?;
        }
        page.push_str("\nThis page is generated from `model.toml` by `cargo xtask codegen`.\n");
        Ok(page)
    }
}

/// Every architecture of `models/`, sorted by name.
fn architectures() -> Result<Vec<Architecture>> {
    let all = tx::classes();
    let mut architectures = Vec::new();
    for folder in tidy::architectures()? {
        architectures
            .push(Architecture::read(&folder, &all).with_context(|| folder.join("model.toml").display().to_string())?);
    }
    architectures.sort_by(|a, b| a.model_type.cmp(&b.model_type));
    for class in all {
        let line = (class.class(), class.task());
        let described = architectures.iter().any(|architecture| architecture.classes.contains(&line));
        ensure!(described, "no model.toml is of type `{}`, which has `{}`", class.model_type(), class.class());
    }
    Ok(architectures)
}

fn table(architectures: &[Architecture]) -> Result<String> {
    let mut text = String::from("| architecture | heads |\n|---|---|\n");
    for Architecture { model_type, classes, .. } in architectures {
        // Several classes may compute the same.
        let mut tasks: Vec<&str> = Vec::new();
        for (_, task) in classes {
            if !tasks.contains(task) {
                tasks.push(task);
            }
        }
        writeln!(text, "| [`{model_type}`](docs/models/{model_type}.md) | {} |", tasks.join(", "))?;
    }
    Ok(text)
}
