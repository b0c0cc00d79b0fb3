//! Documents that are generated from the tables and from `models/*/model.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::root;

const BEGIN: &str = "<!-- generated: architectures -->\n";
const END: &str = "<!-- end generated -->";

pub fn codegen(check: bool) -> Result<()> {
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| readme.display().to_string())?;
    let (before, rest) = text.split_once(BEGIN).context("README.md: no generated table")?;
    let (_, after) = rest.split_once(END).context("README.md: the generated table has no end")?;
    put(&readme, &format!("{before}{BEGIN}{}{END}{after}", table()?), check)?;
    for (model_type, page) in pages()? {
        put(&root().join("docs/models").join(format!("{model_type}.md")), &page, check)?;
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

/// The classes of each architecture.
fn classes() -> BTreeMap<&'static str, Vec<(&'static str, &'static str)>> {
    let mut by_type = BTreeMap::<_, Vec<_>>::new();
    for class in tx_text::models::classes() {
        by_type.entry(class.model_type()).or_default().push((class.class(), class.task()));
    }
    by_type
}

fn table() -> Result<String> {
    let mut text = String::from("| architecture | heads |\n|---|---|\n");
    for (model_type, classes) in classes() {
        let tasks: Vec<_> = classes.iter().map(|(_, task)| *task).collect();
        writeln!(text, "| [`{model_type}`](docs/models/{model_type}.md) | {} |", tasks.join(", "))?;
    }
    Ok(text)
}

/// A page for each architecture.
fn pages() -> Result<Vec<(&'static str, String)>> {
    let mut pages = Vec::new();
    for (model_type, classes) in classes() {
        let path = root().join("models").join(model_type).join("model.toml");
        let toml: toml::Table = fs::read_to_string(&path).with_context(|| path.display().to_string())?.parse()?;
        let string = |table: &toml::Table, key: &str| -> Result<String> {
            let value = table.get(key).with_context(|| format!("{}: no `{key}`", path.display()))?;
            Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        };
        let paper = toml.get("paper").and_then(toml::Value::as_table).context("no `paper`")?;
        let mut page = format!("# {}\n\n", string(&toml, "name")?);
        writeln!(page, "`model_type`: `{model_type}`. Numbers equal those of {}.\n", string(&toml, "reference")?)?;
        let (title, year) = (string(paper, "title")?, string(paper, "year")?);
        // Not every architecture has a paper on arXiv.
        let place = match paper.get("url") {
            Some(_) => string(paper, "url")?,
            None => format!("arXiv:{}", string(paper, "arxiv")?),
        };
        writeln!(page, "Paper: {title} ({year}, {place}).\n\n| class | task |\n|---|---|")?;
        for (class, task) in classes {
            writeln!(page, "| `{class}` | {task} |")?;
        }
        page.push_str("\nCheckpoints, for example:\n\n");
        for checkpoint in toml.get("checkpoints").and_then(toml::Value::as_array).context("no `checkpoints`")? {
            writeln!(page, "- `{}`", checkpoint.as_str().unwrap_or_default())?;
        }
        if let Some(notes) = toml.get("notes").and_then(toml::Value::as_str) {
            writeln!(page, "\n{notes}")?;
        }
        page.push_str("\nThis page is generated from `model.toml` by `cargo xtask codegen`.\n");
        pages.push((model_type, page));
    }
    Ok(pages)
}
