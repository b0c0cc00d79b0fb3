//! One repository in the cache: blobs that are complete or not there, links to them, refs and locks.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempPath;

use super::client::{Client, Failure, Metadata, is_commit, starts_at};
use super::{HubOptions, Repo};
use crate::blocks::BlockWriter;
use crate::config::read_text;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How often a process that waits for a lock looks again.
const POLL: Duration = Duration::from_millis(50);

/// The folder of one repository.
pub(super) struct RepoCache<'a> {
    repo: &'a Repo,
    root: PathBuf,
    locks: PathBuf,
}

impl<'a> RepoCache<'a> {
    pub fn new(repo: &'a Repo, options: &HubOptions) -> Self {
        let folder = format!("models--{}", repo.id.replace('/', "--"));
        Self { repo, root: options.cache.join(&folder), locks: options.cache.join(".locks").join(&folder) }
    }

    /// The folder of the revision's files, if the cache knows its commit.
    pub fn snapshot(&self) -> Option<PathBuf> {
        let commit = match &self.repo.revision {
            commit if is_commit(commit) => commit.clone(),
            name => read_text(&self.root.join("refs").join(name), 1024).ok()?.trim().to_owned(),
        };
        let snapshot = self.snapshot_of(&commit);
        (is_commit(&commit) && snapshot.is_dir()).then_some(snapshot)
    }

    /// The folder of a commit's files.
    pub fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Makes the revision's name stand for a commit whose files are all there.
    pub fn write_ref(&self, commit: &str) -> Result<()> {
        let path = self.root.join("refs").join(&self.repo.revision);
        if self.repo.revision == commit || read_text(&path, 1024).is_ok_and(|old| old == commit) {
            return Ok(());
        }
        create_parent(&path)?;
        let mut file = temporary(&self.root, "ref.", ".tmp")?;
        file.write_all(commit.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(Error::io(&path))?;
        file.persist(&path).map(drop).map_err(|e| Error::io(&path)(e.error))
    }

    /// Downloads a file unless it is there, and returns its path in the snapshot.
    pub fn fetch(&self, client: &Client<'_>, commit: &str, file: &str) -> Result<PathBuf, Failure> {
        let pointer = self.snapshot_of(commit).join(file);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let metadata = client.metadata(commit, file)?;
        let blob = self.root.join("blobs").join(&metadata.etag);
        let complete = || fs::metadata(&blob).is_ok_and(|found| found.is_file() && found.len() == metadata.size);
        if !complete() {
            create_parent(&blob)?;
            let lock = self.lock(client, file, &metadata.etag)?;
            // Another process may have finished it in the meantime.
            if !complete()
                && let Err(failure) = self.download(client, commit, file, &metadata, &blob, lock.is_some())
                // Where locks do not work, the other one may have taken our bytes and finished.
                && !complete()
            {
                return Err(failure);
            }
        }
        point(&pointer, &blob, file)?;
        Ok(pointer)
    }

    /// Waits for the right to download a blob, as long as whoever has it makes progress.
    ///
    /// `None` where the file system has no locks: the worst is then that a file is downloaded twice.
    fn lock(&self, client: &Client<'_>, file: &str, etag: &str) -> Result<Option<File>, Failure> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let lock = File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::io(&path))?;
        // The holder may itself be waiting for the server, try after try.
        let patience = client.options.idle_timeout.saturating_mul(client.options.tries.saturating_add(1));
        let (mut bytes, mut since) = (None, Instant::now());
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::Error(_)) => return Ok(None),
                Err(TryLockError::WouldBlock) => {}
            }
            let now = Some(self.partial(etag).iter().map(|(size, _)| size).sum::<u64>());
            if bytes != now {
                (bytes, since) = (now, Instant::now());
            } else if since.elapsed() > patience {
                let reason = format!("another process holds `{}` and makes no progress", path.display());
                return Err(self.repo.error(Some(file), reason, "end that process and try again").into());
            }
            std::thread::sleep(POLL);
        }
    }

    /// What earlier downloads of a blob left behind, the largest last.
    fn partial(&self, etag: &str) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(self.root.join("blobs")).into_iter().flatten().flatten();
        let mut partial: Vec<_> = entries
            .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(etag) && n.ends_with(".incomplete")))
            .filter_map(|entry| Some((entry.metadata().ok().filter(|found| found.is_file())?.len(), entry.path())))
            .collect();
        partial.sort();
        partial
    }

    /// Downloads a blob to a file of its own and renames it once it is right.
    fn download(
        &self,
        client: &Client<'_>,
        commit: &str,
        file: &str,
        metadata: &Metadata,
        blob: &Path,
        locked: bool,
    ) -> Result<(), Failure> {
        let blobs = blob.parent().unwrap_or(&self.root);
        let mut partial = if locked { self.partial(&metadata.etag) } else { Vec::new() };
        let temp = temporary(blobs, &format!("{}.", metadata.etag), ".incomplete")?.into_temp_path();
        // Only a digest can tell whether old bytes and new ones belong together.
        if metadata.sha256().is_some()
            && let Some((_, largest)) = partial.pop()
        {
            // Without them, the download starts at the first byte.
            let _ = fs::rename(&largest, &temp);
        }
        for (_, stale) in partial {
            let _ = fs::remove_file(&stale);
        }
        let bar = Progress::bytes(file, metadata.size, client.options.progress);
        match client.retry(client.options.tries, || append(client, commit, file, metadata, &temp, &bar)) {
            Ok(()) => {
                temp.persist(blob).map_err(|e| Error::io(blob)(e.error))?;
                sync_folder(blobs)
            }
            Err(failure) => {
                // What came so far is the start of the next attempt.
                if metadata.sha256().is_some() && fs::metadata(&temp).is_ok_and(|found| found.len() > 0) {
                    let path = temp.to_path_buf();
                    temp.keep().map_err(|e| Error::io(&path)(e.error))?;
                }
                Err(failure)
            }
        }
    }
}

/// One try to make `temp` the file that `metadata` describes, from where the try before it ended.
fn append(
    client: &Client<'_>,
    commit: &str,
    file: &str,
    metadata: &Metadata,
    temp: &TempPath,
    bar: &Progress,
) -> Result<(), Failure> {
    let io_error = || Error::io(temp);
    let mut written = File::options().read(true).write(true).open(temp).map_err(io_error())?;
    let mut digest = Sha256::new();
    let mut done = match metadata.sha256() {
        Some(_) => io::copy(&mut written, &mut digest).map_err(io_error())?,
        None => 0,
    };
    let resumed = done > 0;
    let mut out = BlockWriter::new(&mut written, done);
    if done != metadata.size || done == 0 {
        let from = if done < metadata.size { done } else { 0 };
        let mut body = match client.bytes(commit, file, from) {
            Ok(response) => response,
            Err(Failure::Absent(error)) if from > 0 => {
                out.restart().map_err(io_error())?;
                return Err(Failure::transient(error));
            }
            Err(failure) => return Err(failure),
        };
        if !starts_at(&body, from) {
            out.restart().map_err(io_error())?;
            (digest, done) = (Sha256::new(), 0);
        }
        let mut buffer = vec![0; 1 << 17];
        loop {
            bar.set(done);
            let progress = format_args!("after {done} of {} bytes", metadata.size);
            let count = match body.read(&mut buffer) {
                Ok(0) if done < metadata.size => return Err(client.interrupted(Some(file), None, progress)),
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(client.interrupted(Some(file), Some(&e), progress)),
            };
            if count as u64 > metadata.size - done {
                out.restart().map_err(io_error())?;
                let what = format_args!("is longer than the {} bytes that it announced", metadata.size);
                return Err(client.nonsense(Some(file), what));
            }
            out.write_all(&buffer[..count]).map_err(io_error())?;
            digest.update(&buffer[..count]);
            done += count as u64;
        }
    }
    if let Some(expected) = metadata.sha256() {
        let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if found != expected {
            out.restart().map_err(io_error())?;
            let failure = client.nonsense(Some(file), format_args!("has SHA-256 {found}, announced was {expected}"));
            // The fault may lie in the bytes that were there before.
            return Err(if resumed { Failure::transient(failure.into()) } else { failure });
        }
    }
    out.flush().map_err(io_error())?;
    drop(out);
    written.sync_all().map_err(io_error())?;
    Ok(())
}

/// Makes `pointer`, `file` in a snapshot, lead to `blob`.
fn point(pointer: &Path, blob: &Path, file: &str) -> Result<()> {
    create_parent(pointer)?;
    // A link that leads nowhere, or it would have been found.
    let _ = fs::remove_file(pointer);
    match link(pointer, blob, file) {
        // Another process was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(Error::io(pointer)),
    }
}

/// A relative link, so that the cache can be moved.
#[cfg(unix)]
fn link(pointer: &Path, blob: &Path, file: &str) -> io::Result<()> {
    let up = "../".repeat(file.split('/').count() + 1);
    let etag = blob.file_name().unwrap_or_default();
    std::os::unix::fs::symlink(Path::new(&up).join("blobs").join(etag), pointer)
}

/// A second name of the same bytes, because links need a privilege here.
#[cfg(not(unix))]
fn link(pointer: &Path, blob: &Path, _file: &str) -> io::Result<()> {
    fs::hard_link(blob, pointer).or_else(|_| fs::copy(blob, pointer).map(drop))
}

/// A new file that the user's umask, not privacy, decides who may read: caches are shared.
pub(super) fn temporary(folder: &Path, prefix: &str, suffix: &str) -> Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(prefix).suffix(suffix).tempfile_in(folder).map_err(Error::io(folder))
}

fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Error::io(parent)),
        None => Ok(()),
    }
}

/// Makes renames in a folder survive a power loss, where folders can be synced.
fn sync_folder(folder: &Path) -> Result<(), Failure> {
    #[cfg(unix)]
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))?;
    #[cfg(not(unix))]
    let _ = folder;
    Ok(())
}
