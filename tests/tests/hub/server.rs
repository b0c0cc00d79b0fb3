//! A Hub with one repository, on a port of this machine, that can be made to misbehave; and a cache to fill from it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tx_core::Error;
use tx_core::hub::{HubOptions, Wanted, resolve};

pub const COMMIT: &str = "1111111111111111111111111111111111111111";
pub const WEIGHTS: &str = "model.safetensors";
/// The SHA-256 of [`weights`].
pub const SHA256: &str = "e24bc62381f1224fbbb74688663f8f9743b9680b193edd666835e97b06e730eb";

pub fn weights() -> Vec<u8> {
    (0..200_000).map(|i| (i % 251) as u8).collect()
}

/// What was asked of the server.
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Asked {
    pub fn is(&self, method: &str, file: &str) -> bool {
        self.method == method && self.path.ends_with(&format!("/{file}"))
    }

    pub fn lists(&self) -> bool {
        self.path.starts_with("/api/")
    }
}

/// What the server answers, and how it fails to.
#[derive(Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Only so many bytes of the body are sent before the connection is closed.
    pub cut: Option<usize>,
    /// The connection stays open this long after the cut.
    pub stall: Duration,
    /// The body is sent in chunks, without a length.
    pub chunked: bool,
    /// The pause between two pieces of 20 000 bytes.
    pub pace: Duration,
}

impl Answer {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(n, _)| *n != name);
        self.headers.push((name, value.into()));
    }

    pub fn send(self, mut to: TcpStream, head_only: bool) -> std::io::Result<()> {
        write!(to, "HTTP/1.1 {} X\r\nConnection: close\r\n", self.status)?;
        for (name, value) in &self.headers {
            write!(to, "{name}: {value}\r\n")?;
        }
        if self.chunked {
            write!(to, "Transfer-Encoding: chunked\r\n\r\n")?;
        } else if self.headers.iter().any(|(name, _)| *name == "No-Length") {
            write!(to, "\r\n")?;
        } else {
            write!(to, "Content-Length: {}\r\n\r\n", self.body.len())?;
        }
        if head_only {
            return Ok(());
        }
        for piece in self.body[..self.cut.unwrap_or(self.body.len())].chunks(20_000) {
            if self.chunked {
                write!(to, "{:x}\r\n", piece.len())?;
            }
            to.write_all(piece)?;
            if self.chunked {
                write!(to, "\r\n")?;
            }
            std::thread::sleep(self.pace);
        }
        if self.chunked && self.cut.is_none() {
            write!(to, "0\r\n\r\n")?;
        }
        to.flush()?;
        std::thread::sleep(self.stall);
        Ok(())
    }
}

/// A server on a port of its own.
pub struct Hub {
    pub url: String,
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                    let Some(first) = lines.next() else { return };
                    let mut words = first.split(' ').map(str::to_owned);
                    let (method, path) = (words.next().unwrap(), words.next().unwrap());
                    let headers = lines.take_while(|line| !line.is_empty());
                    let headers = headers
                        .filter_map(|l| Some((l.split_once(": ")?.0.to_lowercase(), l.split_once(": ")?.1.to_owned())));
                    let asked = Asked { method, path, headers: headers.collect() };
                    log.lock().unwrap().push(format!("{} {}", asked.method, asked.path));
                    let _ = answer(&asked).send(stream, asked.method == "HEAD");
                });
            }
        });
        Self { url, asked }
    }

    /// The Hub with one good repository, `o/m`, after `change` had its way with the answer.
    pub fn with(change: impl Fn(&Asked, &mut Answer) + Send + Sync + 'static) -> Self {
        let files = files();
        Self::start(move |asked| {
            let mut answer = serve(&files, asked);
            change(asked, &mut answer);
            answer
        })
    }

    pub fn good() -> Self {
        Self::with(|_, _| ())
    }

    /// How often a file was asked for.
    pub fn count(&self, method: &str, file: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|a| a.starts_with(method) && a.ends_with(&format!("/{file}"))).count()
    }

    /// The names of the files that were asked for.
    pub fn files(&self) -> BTreeSet<String> {
        let resolve = format!("/o/m/resolve/{COMMIT}/");
        self.asked.lock().unwrap().iter().filter_map(|a| Some(a.split_once(&resolve)?.1.to_owned())).collect()
    }
}

pub type Files = Vec<(&'static str, Vec<u8>)>;

pub fn files() -> Files {
    vec![
        ("README.md", b"# m".to_vec()),
        ("config.json", b"{\"model_type\": \"bert\"}".to_vec()),
        ("tokenizer.json", b"{}".to_vec()),
        ("tokenizer_config.json", b"{\"a\": 1}".to_vec()),
        ("modules.json", b"[]".to_vec()),
        ("1_Pooling/config.json", b"{\"b\": 1}".to_vec()),
        (WEIGHTS, weights()),
        ("pytorch_model.bin", b"pickle".to_vec()),
        ("tf_model.h5", b"tf".to_vec()),
        ("onnx/model.onnx", b"onnx".to_vec()),
    ]
}

/// The name of a file's blob: a made-up Git hash, except for the weights.
pub fn etag(file: &str) -> String {
    let hash = file.bytes().fold(7u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
    if file == WEIGHTS { SHA256.into() } else { format!("{hash:040x}") }
}

pub fn listing(commit: &str, names: &[&str]) -> String {
    let siblings: Vec<_> = names.iter().map(|name| serde_json::json!({ "rfilename": name })).collect();
    serde_json::json!({ "id": "o/m", "sha": commit, "siblings": siblings }).to_string()
}

/// The answers of the real Hub, as far as a download sees them.
pub fn serve(files: &Files, asked: &Asked) -> Answer {
    if let Some(revision) = asked.path.strip_prefix("/api/models/o/m/revision/") {
        let names: Vec<_> = files.iter().map(|(name, _)| *name).collect();
        return match revision {
            "main" | "v1" | COMMIT => Answer::new(200, listing(COMMIT, &names)),
            _ => Answer::new(404, "").with("X-Error-Code", "RevisionNotFound"),
        };
    }
    let path = asked.path.trim_end_matches("?moved");
    let name = path.strip_prefix(&format!("/o/m/resolve/{COMMIT}/")).unwrap_or_default();
    let Some((_, body)) = files.iter().find(|(n, _)| *n == name) else { return Answer::new(404, "") };
    let answer =
        match asked.headers.get("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()) {
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                Answer::new(206, &body[from..]).with("Content-Range", range)
            }
            None => Answer::new(200, body.clone()),
        };
    answer.with("ETag", format!("\"{}\"", etag(name))).with("X-Repo-Commit", COMMIT)
}

/// An empty cache in a folder of its own.
pub struct Cache {
    pub folder: tempfile::TempDir,
}

impl Cache {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn options(&self, hub: &Hub) -> HubOptions {
        HubOptions {
            cache: self.folder.path().join("cache"),
            endpoint: hub.url.clone(),
            token: None,
            offline: false,
            progress: false,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            tries: 3,
            backoff: Duration::from_millis(1),
        }
    }

    pub fn repo(&self) -> PathBuf {
        self.folder.path().join("cache/models--o--m")
    }

    pub fn weights(&self) -> PathBuf {
        self.repo().join("blobs").join(SHA256)
    }

    /// What the download of the weights has so far.
    pub fn partial(&self) -> Vec<PathBuf> {
        let blobs = fs::read_dir(self.repo().join("blobs")).unwrap().map(|entry| entry.unwrap().path());
        blobs.filter(|path| path.extension().is_some_and(|e| e == "incomplete")).collect()
    }

    pub fn assert_complete(&self) {
        assert_eq!(fs::read(self.repo().join("snapshots").join(COMMIT).join(WEIGHTS)).unwrap(), weights());
        assert!(self.partial().is_empty());
        self.assert_nothing_outside();
    }

    pub fn assert_nothing_outside(&self) {
        let names = |path: &Path| -> BTreeSet<String> {
            fs::read_dir(path).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
        };
        let known = |path: &Path, allowed: &[&str]| {
            let found = names(path);
            assert!(found.iter().all(|name| allowed.contains(&name.as_str())), "{found:?} in {}", path.display());
        };
        known(self.folder.path(), &["cache"]);
        known(&self.folder.path().join("cache"), &[".locks", "models--o--m"]);
        known(&self.repo(), &["blobs", "refs", "snapshots"]);
        known(&self.repo().join("snapshots"), &[COMMIT]);
    }
}

pub fn full(options: &HubOptions) -> Result<PathBuf, Error> {
    resolve("o/m", Wanted::Full, options)
}

pub fn message(result: Result<PathBuf, Error>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n') && text.len() < 1000, "{text}");
    text
}
