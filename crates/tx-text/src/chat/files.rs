//! The files that chat templates lie in.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tx_core::config::{kind, read_json, read_text};
use tx_core::error::{Error, Result};

use super::engine::MAX_SOURCE;

/// The name of the template that is used if none is asked for.
pub(super) const DEFAULT: &str = "default";

/// The most templates of one model.
const MAX_TEMPLATES: usize = 64;

/// Name, file and source of every template of a folder.
pub(super) fn find(folder: &Path) -> Result<Vec<(String, PathBuf, String)>> {
    let mut found = Vec::new();
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let source = read_text(&file, MAX_SOURCE as u64)?;
        found.push((DEFAULT.to_owned(), file, source));
    }
    for file in additional(folder)? {
        if let Some(name) = file.file_stem().and_then(|name| name.to_str()) {
            let (name, source) = (name.to_owned(), read_text(&file, MAX_SOURCE as u64)?);
            found.push((name, file, source));
        }
    }
    // A template in a file of its own counts more than any that is not.
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let file = folder.join(name);
        if found.is_empty() && file.is_file() {
            let json = read_json(&file)?;
            if let Some(value) = json.get("chat_template").filter(|value| !value.is_null()) {
                found = in_json(&file, value)?.into_iter().map(|(name, source)| (name, file.clone(), source)).collect();
            }
        }
    }
    Ok(found)
}

/// The files of `additional_chat_templates`, sorted.
fn additional(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.join("additional_chat_templates");
    let mut files = Vec::new();
    if folder.is_dir() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder))? {
            let file = entry.map_err(Error::io(&folder))?.path();
            if file.extension().is_some_and(|extension| extension == "jinja") && file.is_file() {
                files.push(file);
            }
            if files.len() > MAX_TEMPLATES {
                return Err(Error::malformed(&folder, format_args!("more than {MAX_TEMPLATES} templates")));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A template, a list of named ones, or a map of them.
fn in_json(file: &Path, value: &Value) -> Result<Vec<(String, String)>> {
    let wrong = |expected: &str, found: &Value| {
        Error::config(file, "chat_template", format_args!("found {}, expected {expected}", kind(found)))
    };
    let templates: Vec<(String, String)> = match value {
        Value::String(source) => vec![(DEFAULT.to_owned(), source.clone())],
        Value::Array(items) => items
            .iter()
            .map(|item| {
                let text = |key: &str| item.get(key).and_then(Value::as_str).map(str::to_owned);
                let named = text("name").zip(text("template"));
                named.ok_or_else(|| wrong("objects with the strings `name` and `template`", item))
            })
            .collect::<Result<_>>()?,
        Value::Object(map) => map
            .iter()
            .map(|(name, source)| {
                let source = source.as_str().ok_or_else(|| wrong("templates as strings", source))?;
                Ok((name.clone(), source.to_owned()))
            })
            .collect::<Result<_>>()?,
        other => return Err(wrong("a string or a list of templates", other)),
    };
    if templates.len() > MAX_TEMPLATES {
        let reason = format!("{} templates, expected at most {MAX_TEMPLATES}", templates.len());
        return Err(Error::config(file, "chat_template", reason));
    }
    Ok(templates)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(files: &[(&str, &str)]) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let found = find(folder.path())?;
        Ok(found.into_iter().map(|(name, _, source)| format!("{name}={source}")).collect())
    }

    #[test]
    fn files_count_more_than_the_config() {
        let config = ("tokenizer_config.json", r#"{"chat_template": "c"}"#);
        assert_eq!(names(&[config]).unwrap(), ["default=c"]);
        assert_eq!(names(&[config, ("chat_template.jinja", "j")]).unwrap(), ["default=j"]);
        let more = ("additional_chat_templates/tool_use.jinja", "t");
        assert_eq!(names(&[config, ("chat_template.jinja", "j"), more]).unwrap(), ["default=j", "tool_use=t"]);
        assert_eq!(names(&[config, more]).unwrap(), ["tool_use=t"]);
        assert_eq!(names(&[("chat_template.json", r#"{"chat_template": "p"}"#)]).unwrap(), ["default=p"]);
        assert!(names(&[("tokenizer_config.json", r#"{"chat_template": null}"#)]).unwrap().is_empty());
    }

    #[test]
    fn lists_and_mistakes() {
        let config = |value: &str| names(&[("tokenizer_config.json", &format!(r#"{{"chat_template": {value}}}"#))]);
        let list = r#"[{"name": "default", "template": "d"}, {"name": "rag", "template": "r"}]"#;
        assert_eq!(config(list).unwrap(), ["default=d", "rag=r"]);
        assert_eq!(config(r#"{"default": "d"}"#).unwrap(), ["default=d"]);
        for value in ["1", r#"[{"name": "x"}]"#, r#"["x"]"#, r#"{"default": 1}"#] {
            let error = config(value).unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{error}");
        }
    }
}
