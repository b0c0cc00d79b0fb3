//! How the path of a parameter reads in a file.

use std::collections::BTreeSet;

use super::{Pretrained, Rename};

/// The names of TensorFlow-born norms.
const OLD_NORMS: [(&str, &str); 2] = [(".weight", ".gamma"), (".bias", ".beta")];

/// Whether `name` is `part` or lies in it.
pub(super) fn starts_with_segment(name: &str, part: &str) -> bool {
    name.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether `name` is `part` or ends in it.
pub(super) fn ends_with_segment(name: &str, part: &str) -> bool {
    name.strip_suffix(part).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// How module paths are spelt in one file.
pub(super) struct FileNames<'a> {
    pub renames: &'a [Rename],
    pub prefix: &'a str,
    pub field: &'a str,
    pub module_has_prefix: bool,
    pub file_has_prefix: bool,
}

impl FileNames<'_> {
    /// The name that this file would have for a module path.
    pub fn canonical(&self, path: &str) -> String {
        let path = &with_prefix(path, self.field, self.prefix);
        self.with_file_prefix(path, rename(path, self.renames, |file| file[0]))
    }

    /// Every name that this file may have for a module path, in order of preference.
    pub fn accepted(&self, path: &str) -> Vec<String> {
        let path = &with_prefix(path, self.field, self.prefix);
        let spellings = self.renames.iter().map(|r| r.file.len()).max().unwrap_or(1);
        // Where a file has a tensor under two names, the one that the module has is the one that Python uses.
        let mut names = vec![self.with_file_prefix(path, path.to_owned())];
        for spelling in 0..spellings {
            let name = rename(path, self.renames, |file| file[spelling.min(file.len() - 1)]);
            names.push(self.with_file_prefix(path, name));
        }
        for (new, old) in OLD_NORMS {
            let old_names: Vec<_> =
                names.iter().filter_map(|name| Some(format!("{}{old}", name.strip_suffix(new)?))).collect();
            names.extend(old_names);
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        names
    }

    fn with_file_prefix(&self, path: &str, name: String) -> String {
        match (self.module_has_prefix, self.file_has_prefix) {
            (true, false) if path.starts_with(self.prefix) => name[self.prefix.len()..].to_owned(),
            (false, true) => format!("{}{name}", self.prefix),
            _ => name,
        }
    }
}

/// A path with the file's name of the field that holds the base model.
fn with_prefix(path: &str, field: &str, prefix: &str) -> String {
    path.strip_prefix(field).map_or_else(|| path.to_owned(), |rest| format!("{prefix}{rest}"))
}

/// The name that a parameter of `M` is saved by.
pub(super) fn saved_name<M: Pretrained>(path: &str) -> String {
    let path = with_prefix(path, &format!("{}.", M::FIELD), &format!("{}.", M::PREFIX));
    rename(&path, M::RENAMES, |file| file[0])
}

/// The shape that a parameter of `M` is saved in.
pub(super) fn saved_shape<M: Pretrained>(path: &str, shape: Vec<usize>) -> Vec<usize> {
    if M::SCALARS.contains(&path) { Vec::new() } else { shape }
}

/// Applies all renames to a dotted path.
fn rename(path: &str, renames: &[Rename], spelling: impl Fn(&'static [&'static str]) -> &'static str) -> String {
    let mut name = format!(".{path}.");
    for rename in renames {
        name = name.replace(&format!(".{}.", rename.module), &format!(".{}.", spelling(rename.file)));
    }
    name[1..name.len() - 1].to_owned()
}
