//! Models that are part of a program: unpacked into the cache when they are wanted, without any network.
//!
//! They lie in the cache as downloads do, `models--owner--name/snapshots/<digest>/<file>`, but no ref points there: a
//! repository of the same name on the Hub would be another model. A file that is there counts only if it is the same to
//! the byte, and gets its name when it is complete. Where the cache cannot be written, a temporary folder takes its
//! place.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::cache::{RepoCache, temporary};
use super::{HubOptions, Repo};
use crate::error::{Error, Result};

/// A model whose files are in the program.
#[derive(Debug, Clone, Copy)]
pub struct BuiltIn {
    /// The name that it goes by: `owner/name`, as on the Hub.
    pub id: &'static str,
    /// The names and the bytes of its files.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The folders that take the place of the cache, by id.
static TEMPORARY: Mutex<Vec<(&'static str, TempDir)>> = Mutex::new(Vec::new());

impl BuiltIn {
    /// The folder of its files: in the cache, or else a temporary one, which [`remove_temporary`] removes.
    ///
    /// # Errors
    /// [`Error::Io`] if neither can be written.
    pub fn folder(&self, options: &HubOptions) -> Result<PathBuf> {
        let repo = Repo::parse(self.id)?;
        let folder = RepoCache::new(&repo, options).snapshot_of(&self.digest());
        match self.unpack(&folder) {
            Ok(()) => Ok(folder),
            Err(error) => {
                tracing::info!("{error}; unpacking {} into a temporary folder", self.id);
                self.temporary()
            }
        }
    }

    /// What the name of its snapshot is: of the form that commits have.
    fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for &(name, bytes) in self.files {
            for part in [name.as_bytes(), bytes] {
                digest.update((part.len() as u64).to_le_bytes());
                digest.update(part);
            }
        }
        digest.finalize().iter().take(20).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes the files that are not in the folder yet, or are not what they should be.
    fn unpack(&self, folder: &Path) -> Result<()> {
        for &(name, bytes) in self.files {
            let path = folder.join(name);
            if is(&path, bytes) {
                continue;
            }
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
            let mut file = temporary(folder, &format!("{name}."), ".incomplete")?;
            file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(Error::io(&path))?;
            file.persist(&path).map_err(|e| Error::io(&path)(e.error))?;
        }
        Ok(())
    }

    /// As [`BuiltIn::folder`], where the cache cannot be written. A process has one such folder of each model.
    fn temporary(&self) -> Result<PathBuf> {
        let mut folders = temporary_folders();
        if let Some((_, folder)) = folders.iter().find(|(id, _)| *id == self.id) {
            return Ok(folder.path().to_path_buf());
        }
        let parent = std::env::temp_dir();
        let folder = tempfile::Builder::new().prefix("tx-").tempdir_in(&parent).map_err(Error::io(&parent))?;
        self.unpack(folder.path())?;
        let path = folder.path().to_path_buf();
        folders.push((self.id, folder));
        Ok(path)
    }
}

/// Removes the temporary folders of built-in models, if there are any. Programs do so at their end; weights that are in
/// use already stay usable where the operating system allows the removal.
pub fn remove_temporary() {
    temporary_folders().clear();
}

fn temporary_folders() -> MutexGuard<'static, Vec<(&'static str, TempDir)>> {
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file holds exactly these bytes.
fn is(path: &Path, bytes: &[u8]) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes.len() as u64)
        && fs::read(path).is_ok_and(|found| found == bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: BuiltIn = BuiltIn { id: "owner/name", files: &[("config.json", b"{}"), ("weights", b"1234")] };

    fn options(cache: &Path) -> HubOptions {
        HubOptions { cache: cache.to_path_buf(), offline: true, ..HubOptions::from_env() }
    }

    #[test]
    fn files_are_unpacked_once_and_mended() {
        let cache = tempfile::tempdir().unwrap();
        let folder = MODEL.folder(&options(cache.path())).unwrap();
        assert!(folder.starts_with(cache.path().join("models--owner--name/snapshots")), "{}", folder.display());
        assert_eq!(folder.file_name().unwrap().len(), 40);
        let weights = folder.join("weights");
        let written = fs::metadata(&weights).unwrap().modified().unwrap();
        assert_eq!(MODEL.folder(&options(cache.path())).unwrap(), folder);
        assert_eq!(fs::metadata(&weights).unwrap().modified().unwrap(), written);
        for broken in [&b"12"[..], b"1235", b""] {
            fs::write(&weights, broken).unwrap();
            MODEL.folder(&options(cache.path())).unwrap();
            assert_eq!(fs::read(&weights).unwrap(), b"1234");
        }
        fs::remove_file(&weights).unwrap();
        MODEL.folder(&options(cache.path())).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        let other = BuiltIn { files: &[("config.json", b"{}"), ("weights", b"1235")], ..MODEL };
        assert_ne!(other.folder(&options(cache.path())).unwrap(), folder);
    }

    #[test]
    fn without_a_cache_a_temporary_folder_serves() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A file stands where the cache should be.
        let folder = MODEL.folder(&options(file.path())).unwrap();
        assert_eq!(fs::read(folder.join("weights")).unwrap(), b"1234");
        assert_eq!(MODEL.folder(&options(file.path())).unwrap(), folder);
        remove_temporary();
        assert!(!folder.exists());
    }
}
