//! The Hub over HTTP: which files a repository has, what they should be, and their bytes.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Read;
use std::time::Duration;

use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;

use super::{HubOptions, Repo, shown};
use crate::error::Error;

/// The number of redirects that are followed: one for a renamed repository, one to the store, and some to spare.
const MAX_REDIRECTS: usize = 5;
/// The largest list of files, in bytes; some 100 000 names.
const MAX_LISTING_BYTES: u64 = 16 << 20;
/// The longest pause that the Hub may ask for before it is reported instead.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Why a request failed, and so what to do next.
#[derive(Debug)]
pub(super) enum Failure {
    /// The Hub says that there is no such thing.
    Absent(Error),
    /// Trying again changes nothing.
    Final(Error),
    /// Another try may succeed, after the pause that the Hub asked for.
    Transient(Box<Error>, Option<Duration>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl Failure {
    /// Something that passes by itself.
    pub fn transient(error: Error) -> Self {
        Self::Transient(Box::new(error), None)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Absent(error) | Failure::Final(error) => error,
            Failure::Transient(error, _) => *error,
        }
    }
}

/// A revision's commit and the names of its files; the names are not to be trusted.
pub(super) struct Listing {
    pub commit: String,
    pub files: BTreeSet<String>,
}

/// What a file should be.
pub(super) struct Metadata {
    /// The name of its blob: a Git hash, or the SHA-256 of the content.
    pub etag: String,
    /// Its length in bytes.
    pub size: u64,
}

impl Metadata {
    /// The SHA-256 that the content should have; Git hashes are over something else.
    pub fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64).then_some(self.etag.as_str())
    }
}

/// Makes the requests for one repository.
pub(super) struct Client<'a> {
    pub repo: &'a Repo,
    pub options: &'a HubOptions,
    endpoint: Url,
    http: Http,
}

impl<'a> Client<'a> {
    pub fn new(repo: &'a Repo, options: &'a HubOptions) -> Result<Self, Error> {
        let endpoint =
            Url::parse(&options.endpoint).ok().filter(|u| u.has_host() && ["http", "https"].contains(&u.scheme()));
        let expected = "an address such as `https://huggingface.co`";
        let endpoint = endpoint
            .ok_or_else(|| Error::input("HF_ENDPOINT", format_args!("`{}`", shown(&options.endpoint)), expected))?;
        let http = Http::builder()
            .user_agent(concat!("tx/", env!("CARGO_PKG_VERSION")))
            // Redirects are followed by `send`, which looks at each.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            // For the blocking client: up to the answer's head, and then for each read of its body.
            .timeout(options.idle_timeout);
        // A mirror on this machine is not behind the proxy.
        let local = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let http = if local { http.no_proxy() } else { http };
        let http =
            http.build().map_err(|e| repo.error(None, cause(&e), "check the certificates and the proxy settings"))?;
        Ok(Self { repo, options, endpoint, http })
    }

    /// Asks for the commit that the revision stands for and for the names of its files.
    pub fn list(&self, tries: u32) -> Result<Listing, Failure> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }

        let url = self.url(&["api", "models"], &["revision", &self.repo.revision], "");
        let answer: Answer = self.retry(tries, || {
            let response = self.send(Method::GET, url.clone(), 0, None)?;
            let mut body = Vec::new();
            response
                .take(MAX_LISTING_BYTES + 1)
                .read_to_end(&mut body)
                .map_err(|e| self.interrupted(None, Some(&e), "in the list of files"))?;
            if body.len() as u64 > MAX_LISTING_BYTES {
                return Err(self.nonsense(None, format_args!("lists its files in more than {MAX_LISTING_BYTES} bytes")));
            }
            serde_json::from_slice(&body).map_err(|e| {
                // The error's own text may repeat what the server sent.
                self.nonsense(
                    None,
                    format_args!("is not the expected JSON at line {}, column {}", e.line(), e.column()),
                )
            })
        })?;
        let asked = &self.repo.revision;
        if !is_commit(&answer.sha) || (is_commit(asked) && *asked != answer.sha) {
            return Err(self.nonsense(None, format_args!("gives `{}` as the commit of `{asked}`", shown(&answer.sha))));
        }
        Ok(Listing { commit: answer.sha, files: answer.siblings.into_iter().map(|s| s.rfilename).collect() })
    }

    /// Asks what a file should be.
    pub fn metadata(&self, commit: &str, file: &str) -> Result<Metadata, Failure> {
        self.retry(self.options.tries, || {
            let response = self.send(Method::HEAD, self.file_url(commit, file), 0, Some(file))?;
            let headers = response.headers();
            let etag = header(headers, "x-linked-etag").or_else(|| header(headers, ETAG.as_str())).unwrap_or_default();
            let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
            if !(is_hex(etag, 40) || is_hex(etag, 64)) {
                let what = format_args!("gives `{}` as the file's ETag, expected a SHA-1 or SHA-256", shown(etag));
                return Err(self.nonsense(Some(file), what));
            }
            // The length of a redirect is not that of the file.
            let length =
                if response.status().is_redirection() { None } else { header(headers, CONTENT_LENGTH.as_str()) };
            let size = header(headers, "x-linked-size").or(length).and_then(|s| s.parse().ok());
            let size = size.ok_or_else(|| self.nonsense(Some(file), "does not give the file's length"))?;
            Ok(Metadata { etag: etag.to_owned(), size })
        })
    }

    /// The bytes of a file from `from` on; all of them if the server cannot skip.
    pub fn bytes(&self, commit: &str, file: &str, from: u64) -> Result<Response, Failure> {
        self.send(Method::GET, self.file_url(commit, file), from, Some(file))
    }

    /// Sends a request, follows redirects, and turns every refusal into a [`Failure`].
    fn send(&self, method: Method, mut url: Url, from: u64, file: Option<&str>) -> Result<Response, Failure> {
        for _ in 0..=MAX_REDIRECTS {
            // Compressed bodies would have another length than the file.
            let mut request = self.http.request(method.clone(), url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(token) = &self.options.token
                && url.origin() == self.endpoint.origin()
            {
                request = request.bearer_auth(token);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().map_err(|e| self.unreachable(&e))?;
            let location =
                if response.status().is_redirection() { header(response.headers(), LOCATION.as_str()) } else { None };
            let Some(location) = location else { return self.check(response, file) };
            // The Hub describes a file before it sends us to the store that holds it, which knows less.
            if method == Method::HEAD && response.headers().contains_key("x-linked-etag") {
                return Ok(response);
            }
            let next = url.join(location).ok();
            let allowed = next.filter(|next| {
                next.scheme() == "https" || (next.scheme() == "http" && self.endpoint.scheme() == "http")
            });
            url = allowed.ok_or_else(|| self.nonsense(file, format_args!("redirects to `{}`", shown(location))))?;
        }
        Err(self.nonsense(file, format_args!("redirects more than {MAX_REDIRECTS} times")))
    }

    /// Passes an answer that carries content; says what any other means.
    fn check(&self, response: Response, file: Option<&str>) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        // A store that we were sent to knows nothing of repositories and tokens.
        let at_hub = response.url().origin() == self.endpoint.origin();
        let host = response.url().host_str().unwrap_or_default();
        let page = self.page();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        let error = |reason: String, remedy: String| self.repo.error(file, reason, remedy);
        let token = if self.options.token.is_some() { "use an HF_TOKEN that may read it" } else { "set HF_TOKEN" };
        Err(match (status, code) {
            (StatusCode::NOT_FOUND, _) if at_hub => {
                let revision = &self.repo.revision;
                let reason = match (file, code) {
                    (Some(_), "EntryNotFound" | "") => "no such file in the repository (404)".into(),
                    (_, "RevisionNotFound") => format!("no revision `{revision}` in the repository (404)"),
                    (_, "RepoNotFound") => "no such repository (404)".into(),
                    _ if revision == "main" => "no such repository (404)".into(),
                    _ => format!("no such repository, or no revision `{revision}` in it (404)"),
                };
                let remedy = match file {
                    Some(_) => format!("the repository may have changed just now; try again, or see {page}"),
                    None => format!("check the name at {page}; a local folder of that name does not exist either"),
                };
                Failure::Absent(error(reason, remedy))
            }
            (StatusCode::UNAUTHORIZED, "GatedRepo") | (StatusCode::FORBIDDEN, _) if at_hub => {
                let reason = format!("gated, or not open to you ({})", status.as_u16());
                Failure::Final(error(reason, format!("accept the licence at {page} and {token}")))
            }
            (StatusCode::UNAUTHORIZED, _) if at_hub => {
                let reason = "no such repository, or it is private or gated (401)".into();
                Failure::Final(error(reason, format!("check the name; {token}; accept the licence at {page}")))
            }
            (StatusCode::TOO_MANY_REQUESTS, _) => {
                let pause = header(response.headers(), RETRY_AFTER.as_str()).and_then(|s| s.parse().ok());
                let pause = pause.map(Duration::from_secs);
                let when = pause.map_or("a while".into(), |pause| format!("{} s", pause.as_secs()));
                let error = error("too many requests (429)".into(), format!("wait {when}; {token} for a higher limit"));
                if pause.is_some_and(|pause| pause > MAX_PAUSE) {
                    Failure::Final(error)
                } else {
                    Failure::Transient(Box::new(error), pause)
                }
            }
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => {
                Failure::Absent(error("the file is shorter than announced (416)".into(), "try again".into()))
            }
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                let remedy = "try again later, or set HF_ENDPOINT to a mirror".into();
                Failure::transient(error(format!("{host} is in trouble ({status})"), remedy))
            }
            _ => Failure::Final(error(format!("{host} answers {status}"), "check HF_ENDPOINT and the proxy".into())),
        })
    }

    /// Makes an attempt again, after pauses that double, as long as its failure is transient and tries are left.
    pub fn retry<T>(&self, tries: u32, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
        let mut tried = 1;
        loop {
            match attempt() {
                Err(Failure::Transient(error, pause)) if tried < tries => {
                    tracing::debug!("{error}; try {tried} of {tries}");
                    let doubled = self.options.backoff.saturating_mul(1 << (tried - 1).min(6));
                    std::thread::sleep(pause.unwrap_or(doubled).min(MAX_PAUSE));
                    tried += 1;
                }
                Err(Failure::Transient(mut error, pause)) if tried > 1 => {
                    if let Error::Hub { reason, .. } = &mut *error {
                        reason.push_str(&format!(", {tried} times"));
                    }
                    return Err(Failure::Transient(error, pause));
                }
                other => return other,
            }
        }
    }

    /// A request that got no answer.
    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let failed = |reason: String| self.repo.error(None, reason, self.repo.without_network(self.options));
        let host = error.url().and_then(Url::host_str).unwrap_or(self.host());
        if error.is_timeout() {
            Failure::transient(failed(format!("no answer from {host} in time")))
        } else if error.is_connect() {
            Failure::Final(failed(format!("cannot reach {host}: {}", cause(error))))
        } else if error.is_builder() {
            Failure::Final(self.repo.error(None, "HF_TOKEN is not a token", "log in again, or unset it"))
        } else {
            Failure::transient(failed(format!("the connection to {host} broke: {}", cause(error))))
        }
    }

    /// An answer that ended early; `place` says where.
    pub fn interrupted(&self, file: Option<&str>, error: Option<&std::io::Error>, place: impl Display) -> Failure {
        let inner = error.and_then(|e| e.get_ref()?.downcast_ref::<reqwest::Error>());
        let reason = if inner.is_some_and(reqwest::Error::is_timeout) {
            format!("{} sent nothing for {:?} {place}", self.host(), self.options.idle_timeout)
        } else {
            format!("the download from {} was cut {place}", self.host())
        };
        Failure::transient(self.repo.error(file, reason, "try again"))
    }

    /// An answer that no Hub would give.
    pub fn nonsense(&self, file: Option<&str>, what: impl Display) -> Failure {
        let remedy = "check HF_ENDPOINT and the proxy: something else may be answering";
        Failure::Final(self.repo.error(file, format_args!("the answer of {} {what}", self.host()), remedy))
    }

    fn host(&self) -> &str {
        self.endpoint.host_str().unwrap_or_default()
    }

    /// The repository's page, for people.
    fn page(&self) -> Url {
        let mut page = self.url(&[], &[], "");
        // An endpoint may hold a password; an error message must not.
        let _ = page.set_username("").and_then(|()| page.set_password(None));
        page
    }

    fn file_url(&self, commit: &str, file: &str) -> Url {
        self.url(&[], &["resolve", commit], file)
    }

    /// `<endpoint>/<before>/<owner>/<name>/<after>/<file>`, percent-encoded; only `file` may hold slashes.
    fn url(&self, before: &[&str], after: &[&str], file: &str) -> Url {
        let mut url = self.endpoint.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(before).extend(self.repo.id.split('/')).extend(after);
            path.extend(file.split('/').filter(|part| !part.is_empty()));
        }
        url
    }
}

/// Whether the bytes of an answer start at `from`, as was asked.
pub(super) fn starts_at(response: &Response, from: u64) -> bool {
    let range = header(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
    from > 0 && response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"))
}

/// Whether `text` is the full hash of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// What lies at the bottom of an error: the operating system's or the TLS library's word.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    shown(&cause.to_string())
}
