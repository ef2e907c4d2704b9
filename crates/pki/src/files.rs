//! Files that must be whole and private.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::{Error, Result};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The owner only (0600).
    Private,
    /// Everyone (0644).
    Public,
}

/// Whether a write must have reached the disk before it is reported done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The content cannot be made again.
    Synced,
    /// The content is made again where it is missing or damaged.
    Replaceable,
}

pub(crate) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Writes a file so that readers see the old content or the new one, never a part. The directory is made.
pub fn write(path: &Path, content: &[u8], mode: Mode, durability: Durability) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    private_dir(dir)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}", crate::random_id(8)));
    let bits = if mode == Mode::Private { 0o600 } else { 0o644 };
    let done = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(bits).open(&temporary)?;
        file.write_all(content)?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durability == Durability::Synced {
            fs::File::open(dir)?.sync_all()?;
        }
        Ok(())
    })();
    if done.is_err() {
        // Nothing to be done if this fails too: the first error is the one to tell.
        drop(fs::remove_file(&temporary));
    }
    done.map_err(at("write", path))
}

/// Makes a directory, 0700 if it is new.
pub fn private_dir(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at("create directory", dir))
}

/// Reads a text file; `None` where there is none.
pub fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_private_and_whole() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("a/b/key");
        for text in ["one", "two"] {
            write(&path, text.as_bytes(), Mode::Private, Durability::Synced).expect("written");
            assert_eq!(read(&path).expect("read").as_deref(), Some(text));
        }
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).expect("dir").count(), 1);
        assert_eq!(read(&dir.path().join("none")).expect("no error"), None);
    }
}
