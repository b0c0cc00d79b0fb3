//! What the commands are given: texts, lines of files and of standard input, and files of pictures or sounds.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use tx_core::config::read_text;
use tx_core::error::{Error, Result};

/// The largest file of inputs, in bytes.
pub const MAX_FILE: u64 = 1 << 30;
/// Pictures, by how their names end.
pub const PICTURES: Media = Media {
    what: "a picture",
    extensions: &["bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp"],
};
/// Sounds, by how their names end.
pub const SOUNDS: Media =
    Media { what: "a sound", extensions: &["aac", "flac", "m4a", "mp3", "mp4", "oga", "ogg", "wav", "wave"] };

/// A kind of files. What a file holds is told by its content; only where a folder is given, the names count.
#[derive(Debug, Clone, Copy)]
pub struct Media {
    what: &'static str,
    extensions: &'static [&'static str],
}

/// Files that are there.
#[derive(Debug, PartialEq, Eq)]
pub struct Files {
    pub paths: Vec<PathBuf>,
    /// How tables name them.
    pub names: Vec<String>,
    /// Whether they are a list: more than one, or lines, or a folder.
    pub list: bool,
}

/// All of standard input.
///
/// # Errors
/// [`Error::Input`] if it is no text.
pub fn read_stdin() -> Result<String> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|e| Error::input("standard input", e, "UTF-8 text"))?;
    Ok(text)
}

/// The inputs of a command line, and whether they are a list: more than one, or lines of standard input or a file.
///
/// # Errors
/// [`Error::Input`] if there are none; whatever reading gives.
pub fn lines(inputs: &[String], file: Option<&Path>, what: &str) -> Result<(Vec<String>, bool)> {
    let mut lines = Vec::new();
    let mut list = inputs.len() > 1;
    for input in inputs {
        if input == "-" {
            lines.extend(read_stdin()?.lines().map(str::to_owned));
            list = true;
        } else {
            lines.push(input.clone());
        }
    }
    if let Some(file) = file {
        lines.extend(read_text(file, MAX_FILE)?.lines().map(str::to_owned));
        list = true;
    }
    if lines.is_empty() && !list {
        let expected = format_args!("{what}, `--file FILE`, or `-` for lines of standard input");
        return Err(Error::input("INPUT", "nothing", expected));
    }
    Ok((lines, list))
}

impl Files {
    /// The files of these names; a folder stands for the files in it whose names end as those of their kind do.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that is not there; [`Error::Input`] for a folder that holds none, and for an address.
    pub fn find(names: &[String], list: bool, media: Media) -> Result<Self> {
        let mut files = Self { paths: Vec::new(), names: Vec::new(), list };
        for name in names {
            if name.starts_with("http://") || name.starts_with("https://") {
                let expected = format_args!("{} in a file; download it first", media.what);
                return Err(Error::input(format!("`{name}`"), "an address of the network", expected));
            }
            let path = Path::new(name);
            if std::fs::metadata(path).map_err(Error::io(path))?.is_dir() {
                files.list = true;
                files.paths.extend(media.of_folder(path)?);
            } else {
                files.paths.push(path.to_path_buf());
            }
        }
        files.names = files.paths.iter().map(|path| path.display().to_string()).collect();
        Ok(files)
    }

    /// Where the results of the files go: `output` itself for a file alone, else a file for each in the folder `output`,
    /// which is made. Names end with `extension`.
    ///
    /// # Errors
    /// [`Error::Input`] if a file would be replaced by its own result; [`Error::Io`] if the folder cannot be made.
    pub fn targets(&self, output: &Path, extension: &str) -> Result<Vec<PathBuf>> {
        let mut targets = Vec::new();
        if self.list || output.is_dir() {
            std::fs::create_dir_all(output).map_err(Error::io(output))?;
            let mut taken = BTreeSet::new();
            for path in &self.paths {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let numbered = |number: usize| match number {
                    1 => format!("{stem}.{extension}"),
                    _ => format!("{stem}-{number}.{extension}"),
                };
                let name = (1..).map(numbered).find(|name| !taken.contains(name)).unwrap_or_default();
                targets.push(output.join(&name));
                taken.insert(name);
            }
        } else {
            targets.push(output.to_path_buf());
        }
        let inputs: BTreeSet<PathBuf> = self.paths.iter().filter_map(|path| path.canonicalize().ok()).collect();
        match targets.iter().find(|target| target.canonicalize().is_ok_and(|target| inputs.contains(&target))) {
            Some(target) => {
                let found = format_args!("`{}`, which is an input", target.display());
                Err(Error::input("--output", found, "another file or folder"))
            }
            None => Ok(targets),
        }
    }
}

impl Media {
    /// The word for it, with its article.
    pub fn what(&self) -> &'static str {
        self.what
    }

    /// The files of a folder, sorted.
    fn of_folder(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
            if extension.is_some_and(|extension| self.extensions.contains(&extension.as_str())) && path.is_file() {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.is_empty() {
            let endings = self.extensions.join(", .");
            let expected = format_args!("{} in it, with a name that ends in .{endings}", self.what);
            return Err(Error::input(format!("`{}`", folder.display()), "a folder", expected));
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn one_text_is_no_list() {
        let lines = |inputs: &[&str]| {
            let inputs: Vec<String> = inputs.iter().map(|&input| input.to_owned()).collect();
            lines(&inputs, None, "a text")
        };
        assert_eq!(lines(&["a"]).unwrap(), (vec!["a".to_owned()], false));
        assert_eq!(lines(&["a", "b"]).unwrap(), (vec!["a".to_owned(), "b".to_owned()], true));
        assert!(lines(&[]).unwrap_err().to_string().starts_with("INPUT: nothing, expected a text"));
    }

    #[test]
    fn a_folder_stands_for_its_files() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        fs::create_dir(folder.join("empty")).unwrap();
        for name in ["b.PNG", "a.jpg", "a.png", "notes.txt"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let find = |names: &[&Path], list| {
            let names: Vec<String> = names.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            Files::find(&names, list, PICTURES)
        };
        let found = find(&[folder], false).unwrap();
        let expected = ["a.jpg", "a.png", "b.PNG"].map(|name| folder.join(name));
        assert_eq!((found.paths.as_slice(), found.list), (&expected[..], true));
        let targets = found.targets(&folder.join("out"), "png").unwrap();
        assert_eq!(targets, ["a.png", "a-2.png", "b.png"].map(|name| folder.join("out").join(name)));
        assert!(found.targets(folder, "png").unwrap_err().to_string().contains("which is an input"));

        let one = find(&[&folder.join("notes.txt")], false).unwrap();
        assert!(!one.list);
        assert_eq!(one.targets(&folder.join("x.png"), "png").unwrap(), [folder.join("x.png")]);
        assert_eq!(one.targets(folder, "png").unwrap(), [folder.join("notes.png")]);
        assert!(find(&[&folder.join("empty")], false).unwrap_err().to_string().contains("a picture in it"));
        assert!(matches!(find(&[&folder.join("absent.png")], false), Err(Error::Io { .. })));
        assert!(find(&[Path::new("https://a.b/c.png")], false).unwrap_err().to_string().contains("download it first"));
    }
}
