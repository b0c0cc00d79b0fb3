//! The steps by which a checkpoint reaches the disk, one by one, so that a test can make each of them the last.

use std::fmt::Debug;
use std::fs::{self, File};
use std::path::Path;

use tx_core::{Error, Result};

/// What changes folders and files.
pub(super) trait Disk: Debug + Send + Sync {
    /// Makes a folder that is not there yet.
    fn create_folder(&self, path: &Path) -> Result<()>;

    /// Lets `content` write the file, or what else belongs under this path.
    fn write(&self, path: &Path, content: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()>;

    /// Waits until the disk has a file, or the names in a folder.
    fn sync(&self, path: &Path) -> Result<()>;

    /// Gives a folder another name, which is not taken.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a folder and what is in it.
    fn remove(&self, path: &Path) -> Result<()>;
}

/// The file system.
#[derive(Debug)]
pub(super) struct FileSystem;

impl Disk for FileSystem {
    fn create_folder(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(Error::io(path))
    }

    fn write(&self, path: &Path, content: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
        content(path)
    }

    fn sync(&self, path: &Path) -> Result<()> {
        // Windows has no such thing for folders, and for files it asks for the right to write.
        if cfg!(windows) && path.is_dir() {
            return Ok(());
        }
        let file = File::options().read(true).write(cfg!(windows)).open(path).map_err(Error::io(path))?;
        file.sync_all().map_err(Error::io(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).map_err(Error::io(to))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(Error::io(path))
    }
}
