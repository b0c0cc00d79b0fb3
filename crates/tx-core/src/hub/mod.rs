//! A model's name to a folder: one on disk, or a repository of the Hub through the cache that Python uses too.
//!
//! ```text
//! <cache>/models--owner--name/refs/main                    the commit that `main` stood for
//!                            /snapshots/<commit>/<file>    a relative link into blobs/
//!                            /blobs/<etag>                 the bytes, complete and checked
//!                            /blobs/<etag>.*.incomplete    what a download has so far
//! <cache>/.locks/models--owner--name/<etag>.lock           held by the process that downloads it
//! ```
//!
//! The network, the mirror and the server are not trusted: names that become paths are checked first, a file gets its
//! final name only when its size and (where the Hub announces one) its SHA-256 are right, and a ref is moved only when
//! every file of its snapshot is there. Killing the process at any point leaves a cache that works.
//!
//! Requests are made with `reqwest` and not through the crate `hf-hub` (1.0.0), which cannot be guarded from outside: it
//! renames bodies that were cut, joins the server's headers into paths, reads answers of any length into memory, and
//! takes the token from the environment when it is given none.

mod built_in;
mod cache;
mod client;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::config::{kind, read_json, read_text};
use crate::error::{Error, Result};
use cache::RepoCache;
use client::{Client, Failure, Listing};

pub use built_in::{BuiltIn, remove_temporary};

const CONFIG_FILE: &str = "config.json";

/// Everything that a tokenizer of any kind may be made of.
const TOKENIZER_FILES: [&str; 13] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "spm.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// What image processors and feature extractors are made of.
const PROCESSOR_FILES: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];

/// The small files besides that a model or its pipeline may need.
const OTHER_FILES: [&str; 4] =
    ["config_sentence_transformers.json", "generation_config.json", "modules.json", "sentence_bert_config.json"];

/// The weights, in order of preference: only the first that is there is downloaded.
const WEIGHT_FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// No index comes near this number of shards.
const MAX_SHARDS: usize = 10_000;

/// Where models come from and where they are kept.
#[derive(Clone)]
pub struct HubOptions {
    /// The cache folder, shared with Python: `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else
    /// `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The address of the Hub or of a mirror: `$HF_ENDPOINT`.
    pub endpoint: String,
    /// What private and gated repositories ask for: `$HF_TOKEN`, else the file `$HF_TOKEN_PATH`, else `$HF_HOME/token`.
    /// It is sent to the host of `endpoint` only.
    pub token: Option<String>,
    /// Never use the network: `$HF_HUB_OFFLINE`, `--offline`.
    pub offline: bool,
    /// Draw a bar for each file, unless `$HF_HUB_DISABLE_PROGRESS_BARS`.
    pub progress: bool,
    /// The longest time that a connection may take to come up.
    pub connect_timeout: Duration,
    /// The longest time without an answer or a byte of it.
    pub idle_timeout: Duration,
    /// How often a request is made before its failure is reported.
    pub tries: u32,
    /// The pause after the first failed try; it doubles after each.
    pub backoff: Duration,
}

impl HubOptions {
    /// What the environment says, under the names and with the defaults of Python's `huggingface_hub`.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Self {
        let var = |name| var(name).filter(|value| !value.is_empty());
        let path = |name| var(name).map(|value| expand_home(Path::new(&value)));
        let text = |name| var(name).map(|value| value.to_string_lossy().trim().to_owned());
        let on = |name| text(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));

        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|folder| folder.join("huggingface")))
            .unwrap_or_else(|| expand_home(Path::new("~/.cache/huggingface")));
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = text("HF_TOKEN").or_else(|| {
            let saved = if on("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { read_text(&token_file, 1 << 16).ok() };
            saved.map(|token| token.trim().to_owned())
        });
        Self {
            cache: path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub")),
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: token.filter(|token| !token.is_empty()),
            offline: on("HF_HUB_OFFLINE") || on("TRANSFORMERS_OFFLINE"),
            progress: !on("HF_HUB_DISABLE_PROGRESS_BARS"),
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            tries: 5,
            backoff: Duration::from_millis(500),
        }
    }
}

impl fmt::Debug for HubOptions {
    /// Without the token: options end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubOptions")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

/// How much of a model is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `config.json` alone.
    ConfigOnly,
    /// `config.json` and what the tokenizer is made of.
    Tokenizer,
    /// `config.json` and what the image processor or feature extractor is made of.
    Processor,
    /// Everything, with the weights.
    Full,
}

impl Wanted {
    /// Whether a file is needed, the model's own weights aside.
    fn includes(self, file: &str, files: &BTreeSet<String>) -> bool {
        let full = self == Self::Full;
        file == CONFIG_FILE
            || (full || self == Self::Tokenizer) && (TOKENIZER_FILES.contains(&file) || is_named_template(file))
            || (full || self == Self::Processor) && PROCESSOR_FILES.contains(&file)
            || full && (OTHER_FILES.contains(&file) || is_module_file(file, files))
    }

    /// What a snapshot lacks that can be told without the Hub's list of its files.
    fn lacks(self, snapshot: &Path) -> Option<String> {
        let has = |file: &str| snapshot.join(file).is_file();
        if !has(CONFIG_FILE) {
            return Some(format!("`{CONFIG_FILE}`"));
        }
        match self {
            Self::ConfigOnly => None,
            Self::Tokenizer => (!TOKENIZER_FILES.into_iter().any(has)).then(|| "tokenizer".into()),
            Self::Processor => (!PROCESSOR_FILES.into_iter().any(has)).then(|| "preprocessor_config.json".into()),
            Self::Full => match WEIGHT_FILES.into_iter().find(|file| has(file)) {
                None => Some(format!("`{}`", WEIGHT_FILES.join("`, `"))),
                Some(index) if index.ends_with(".json") => match shards(&snapshot.join(index)) {
                    Ok(shards) => shards.into_iter().find(|shard| !has(shard)).map(|shard| format!("`{shard}`")),
                    Err(error) => Some(format!("readable index ({error})")),
                },
                Some(_) => None,
            },
        }
    }
}

/// Whether a file belongs to a module of sentence-transformers, such as `1_Pooling` or `2_Dense`.
fn is_module_file(file: &str, files: &BTreeSet<String>) -> bool {
    let Some((folder, name)) = file.split_once('/') else { return false };
    let numbered = folder.split_once('_').is_some_and(|(n, _)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    numbered
        && match name {
            "config.json" | "model.safetensors" => true,
            "pytorch_model.bin" => !files.contains(&format!("{folder}/model.safetensors")),
            _ => false,
        }
}

/// Whether a file is one of several chat templates, such as `additional_chat_templates/tool_use.jinja`.
fn is_named_template(file: &str) -> bool {
    let name = file.strip_prefix("additional_chat_templates/").and_then(|name| name.strip_suffix(".jinja"));
    name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

/// A model repository of the Hub at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repo {
    /// `owner/name`, or `name` for the few that have no owner.
    pub id: String,
    /// A branch, tag or commit.
    pub revision: String,
}

impl Repo {
    /// Reads `owner/name[@revision]`, by the rules of Python's `huggingface_hub`.
    ///
    /// # Errors
    /// [`Error::Input`].
    pub fn parse(model: &str) -> Result<Self> {
        let (id, revision) = model.split_once('@').unwrap_or((model, "main"));
        // `--` stands for `/` in the cache; the Hub forbids it in names.
        let name = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
                && !(s.starts_with(['.', '-']) || s.ends_with(['.', '-']) || s.contains("..") || s.contains("--"))
        };
        let names = id.split('/').count();
        let looks_local = model.starts_with(['.', '/', '\\', '~']) || Path::new(model).is_absolute();
        if looks_local || names > 2 || id.len() > 96 || id.ends_with(".git") || !id.split('/').all(name) {
            let found = if looks_local { "no such folder" } else { "neither a folder on disk nor an id of the Hub" };
            let expected = "an existing folder, or `owner/name[@revision]` as the Hub writes it";
            return Err(Error::input("model", format_args!("`{}` is {found}", shown(model)), expected));
        }
        // A revision becomes a path below `refs/`.
        let part = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
                && !s.starts_with('.')
                && !s.contains("..")
        };
        if revision.len() > 200 || !revision.split('/').all(part) {
            let found = format!("`{}` is not a revision", shown(revision));
            return Err(Error::input("model", found, "a branch, a tag or a commit after the `@`"));
        }
        Ok(Self { id: id.to_owned(), revision: revision.to_owned() })
    }

    /// An [`Error::Hub`] about this repository or one of its files.
    fn error(&self, file: Option<&str>, reason: impl fmt::Display, remedy: impl fmt::Display) -> Error {
        Error::Hub {
            repo: self.id.clone(),
            file: file.map(str::to_owned),
            reason: reason.to_string(),
            remedy: remedy.to_string(),
        }
    }

    /// What to do when the Hub cannot be reached.
    fn without_network(&self, options: &HubOptions) -> String {
        format!(
            "run `tx download {}` where the Hub can be reached and copy `{}` here, or name a local folder, or set \
             HF_ENDPOINT to a mirror",
            self.id,
            options.cache.display()
        )
    }
}

/// The folder that holds what is `wanted` of a model: `model` itself if it is a folder, else a snapshot in the cache,
/// downloaded if need be.
///
/// A cached copy serves when the Hub is not to be used ([`HubOptions::offline`]), cannot be reached or refuses; the
/// latter two are said by a warning.
///
/// # Errors
/// [`Error::Input`] if `model` is neither a folder nor an id of the Hub; [`Error::Hub`] if the Hub, or the way to it,
/// refuses and there is no cached copy; [`Error::Io`] if the cache cannot be written.
pub fn resolve(model: &str, wanted: Wanted, options: &HubOptions) -> Result<PathBuf> {
    let path = expand_home(Path::new(model));
    if path.is_dir() {
        return Ok(path);
    }
    if path.is_file() {
        let expected = "the folder that holds it with its `config.json`";
        return Err(Error::input("model", format_args!("`{}` is a file", shown(model)), expected));
    }
    let repo = Repo::parse(model)?;
    let cached = find_cached(&repo, wanted, options);
    if options.offline {
        let why = |lack| format!("offline, and {lack} in the cache");
        let snapshot = cached.map_err(|lack| repo.error(None, why(lack), repo.without_network(options)))?;
        tracing::info!("{}: offline, using the cached copy `{}`", repo.id, snapshot.display());
        return Ok(snapshot);
    }
    // With a cached copy at hand, waiting for a Hub that does not answer helps nobody.
    let tries = if cached.is_ok() { 1 } else { options.tries };
    // On a thread of its own, because the HTTP client must not run inside an asynchronous runtime, where a server's
    // caller may be.
    let downloaded = std::thread::scope(|scope| scope.spawn(|| download(&repo, wanted, options, tries)).join());
    let failure = match downloaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
        Ok(snapshot) => return Ok(snapshot),
        Err(failure) => failure,
    };
    let gone = matches!(failure, Failure::Absent(_));
    match (cached, Error::from(failure)) {
        (Ok(snapshot), error @ Error::Hub { .. }) if !gone => {
            tracing::warn!("{error}; using the cached copy `{}`", snapshot.display());
            Ok(snapshot)
        }
        (_, error) => Err(error),
    }
}

/// The snapshot in the cache that holds what is `wanted` of a repository, without asking the Hub.
pub fn cached(repo: &Repo, wanted: Wanted, options: &HubOptions) -> Option<PathBuf> {
    find_cached(repo, wanted, options).ok()
}

/// As [`cached`], or what is missing, as in "no … in the cache".
fn find_cached(repo: &Repo, wanted: Wanted, options: &HubOptions) -> Result<PathBuf, String> {
    let cache = RepoCache::new(repo, options);
    let snapshot = cache.snapshot().ok_or_else(|| format!("no revision `{}`", repo.revision))?;
    match wanted.lacks(&snapshot) {
        None => Ok(snapshot),
        Some(lack) => Err(format!("no {lack}")),
    }
}

/// Downloads what the cache lacks and makes the ref point to it.
fn download(repo: &Repo, wanted: Wanted, options: &HubOptions, tries: u32) -> Result<PathBuf, Failure> {
    let client = Client::new(repo, options)?;
    let cache = RepoCache::new(repo, options);
    let Listing { commit, files } = client.list(tries)?;
    if !files.contains(CONFIG_FILE) {
        let remedy = "name a repository in the format of Transformers";
        return Err(repo.error(Some(CONFIG_FILE), "not in the repository", remedy).into());
    }
    for file in files.iter().filter(|file| wanted.includes(file, &files)) {
        cache.fetch(&client, &commit, file)?;
    }
    if wanted == Wanted::Full {
        let Some(weights) = WEIGHT_FILES.into_iter().find(|file| files.contains(*file)) else {
            let reason = "no weights in the format of safetensors or PyTorch";
            return Err(repo
                .error(None, reason, format_args!("it should have one of {}", WEIGHT_FILES.join(", ")))
                .into());
        };
        let path = cache.fetch(&client, &commit, weights)?;
        for shard in if weights.ends_with(".json") { shards(&path)? } else { BTreeSet::new() } {
            if !files.contains(&shard) {
                let reason = format!("`{weights}` names it, but it is not in the repository");
                return Err(repo.error(Some(&shard), reason, "the upload is incomplete; try another revision").into());
            }
            cache.fetch(&client, &commit, &shard)?;
        }
    }
    cache.write_ref(&commit)?;
    Ok(cache.snapshot_of(&commit))
}

/// The files that `{"weight_map": {tensor: file}}` names, each inside the index's own folder.
fn shards(index: &Path) -> Result<BTreeSet<String>> {
    let json = read_json(index)?;
    let map = json.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| Error::malformed(index, "expected a map `weight_map` from tensor to file"))?;
    let mut shards = BTreeSet::new();
    for file in map.values() {
        let Some(file) = file.as_str() else {
            let reason = format_args!("`weight_map`: expected file names, found {}", kind(file));
            return Err(Error::malformed(index, reason));
        };
        let inside = file.split('/').all(|part| !["", ".", ".."].contains(&part))
            && !file.contains(|c: char| c.is_control() || ['\\', ':'].contains(&c));
        if !inside || !(file.ends_with(".safetensors") || file.ends_with(".bin")) || file.len() > 255 {
            let reason = format_args!("`{}` is not the name of a weight file in this folder", shown(file));
            return Err(Error::malformed(index, reason));
        }
        shards.insert(file.to_owned());
        if shards.len() > MAX_SHARDS {
            return Err(Error::malformed(index, format_args!("expected at most {MAX_SHARDS} shards")));
        }
    }
    Ok(shards)
}

/// `~` and `~/…` with the user's home folder in place of `~`.
fn expand_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_path_buf(),
    }
}

/// Text from outside as it may stand in a message: short, without control characters.
fn shown(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_revisions() {
        for (model, id, revision) in [
            ("bert-base-uncased", "bert-base-uncased", "main"),
            ("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "main"),
            ("a/b_c.d@refs/pr/1", "a/b_c.d", "refs/pr/1"),
            ("a/b@v1.0+x", "a/b", "v1.0+x"),
        ] {
            assert_eq!(Repo::parse(model).unwrap(), Repo { id: id.into(), revision: revision.into() });
        }
        let long = "a".repeat(97);
        for model in [
            "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a..b", "a--b", "-a", "a.", "a b", "a/b.git", "ä/b", "~/x",
            "./x", "a/b@", "a/b@../x", "a/b@/etc", "a/b@x y", "a/b@.x", "a\\b", &long,
        ] {
            assert!(matches!(Repo::parse(model), Err(Error::Input { .. })), "{model}");
        }
    }

    #[test]
    fn the_environment_decides_as_in_python() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap().to_owned();
        std::fs::write(folder.path().join("token"), " saved\n").unwrap();
        let options = |vars: &[(&str, &str)]| {
            let vars: Vec<_> = vars.iter().map(|&(k, v)| (k.to_owned(), OsString::from(v))).collect();
            HubOptions::from_vars(move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
        };
        let cache = |vars| options(vars).cache;
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
        assert_eq!(cache(&[("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), Path::new("/h/hub"));
        assert_eq!(cache(&[("HF_HOME", ""), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert!(cache(&[]).ends_with(".cache/huggingface/hub"));
        assert_eq!(options(&[("HF_HOME", &home)]).token.as_deref(), Some("saved"));
        assert_eq!(options(&[("HF_HOME", &home), ("HF_TOKEN", "given\n")]).token.as_deref(), Some("given"));
        assert_eq!(options(&[("HF_HOME", &home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).token, None);
        assert!(!format!("{:?}", options(&[("HF_TOKEN", "given")])).contains("given"));
        assert!(options(&[("HF_HUB_OFFLINE", "true")]).offline && !options(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn named_chat_templates_are_wanted_with_the_tokenizer() {
        let (files, file) = (BTreeSet::new(), "additional_chat_templates/tool_use.jinja");
        assert_eq!(
            [Wanted::ConfigOnly, Wanted::Tokenizer, Wanted::Full].map(|w| w.includes(file, &files)),
            [false, true, true]
        );
        let others =
            ["additional_chat_templates/.jinja", "additional_chat_templates/a/b.jinja", "other/tool_use.jinja"];
        assert!(others.iter().all(|file| !Wanted::Full.includes(file, &files)));
    }

    #[test]
    fn modules_of_sentence_transformers_are_wanted() {
        let files = ["2_Dense/model.safetensors", "2_Dense/pytorch_model.bin", "3_Dense/pytorch_model.bin"];
        let files: BTreeSet<String> = files.map(str::to_owned).into();
        let wanted = |file| is_module_file(file, &files);
        assert!(
            ["1_Pooling/config.json", "2_Dense/model.safetensors", "3_Dense/pytorch_model.bin"].map(wanted)
                == [true; 3]
        );
        assert!(
            ["2_Dense/pytorch_model.bin", "onnx/config.json", "_x/config.json", "1_Pooling/README.md"].map(wanted)
                == [false; 4]
        );
    }
}
