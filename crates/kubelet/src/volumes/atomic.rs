//! Files of a volume that change all at once. Follows upstream `pkg/volume/util/atomic_writer.go`: the files are in
//! `..2026_11_21_06_00_00.123456789`, `..data` points there, and what the container sees are links through `..data`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path};

use k8s_openapi::jiff::Timestamp;

/// A file: its mode and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub data: Vec<u8>,
}

/// The files of a volume, by path below it.
pub type Payload = BTreeMap<String, FileData>;

const DATA: &str = "..data";

/// Whether a path stays below its volume and does not collide with the writer's own names.
pub fn valid_path(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && path.len() <= 4096
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(n) if n.len() <= 255))
}

/// Makes the folder hold exactly these files. Returns whether anything changed. `prepare` is called on the new folder
/// before it becomes visible (to set owners).
pub fn write(dir: &Path, payload: &Payload, prepare: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
    if let Some(bad) = payload.keys().find(|p| !valid_path(p)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {bad:?} in a volume")));
    }
    let current = dir.join(DATA);
    let old = fs::read_link(&current).ok().filter(|link| link.components().count() == 1);
    if old.is_some() && same(&current, payload)? {
        link_visible(dir, payload)?;
        return Ok(false);
    }
    let stamp = Timestamp::now();
    let name = format!("..{}.{:09}", stamp.strftime("%Y_%m_%d_%H_%M_%S"), rand::random_range(0..1_000_000_000u32));
    let fresh = dir.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        out.write_all(&file.data)?;
        // The process's umask must not matter.
        out.set_permissions(fs::Permissions::from_mode(file.mode & 0o7777))?;
    }
    prepare(&fresh)?;
    let temporary = dir.join("..data_tmp");
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    symlink(&name, &temporary)?;
    fs::rename(&temporary, &current)?;
    link_visible(dir, payload)?;
    remove_stale(dir, payload)?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

/// The links the container sees.
fn link_visible(dir: &Path, payload: &Payload) -> io::Result<()> {
    for top in tops(payload) {
        let link = dir.join(&top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(&top), link)?;
        }
    }
    Ok(())
}

/// First components of the paths.
fn tops(payload: &Payload) -> BTreeSet<String> {
    payload.keys().filter_map(|p| p.split('/').next()).map(str::to_owned).collect()
}

fn remove_stale(dir: &Path, payload: &Payload) -> io::Result<()> {
    let keep = tops(payload);
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && entry.file_type()?.is_symlink() && !keep.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Whether the folder holds exactly these files.
fn same(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut found = 0;
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let relative = path.strip_prefix(dir).unwrap_or(&path).to_string_lossy().into_owned();
            let Some(wanted) = payload.get(&relative) else { return Ok(false) };
            // Owners may add group bits; the content decides, and a mode that lacks a wanted bit.
            let mode = entry.metadata()?.permissions().mode();
            if mode & wanted.mode != wanted.mode & 0o7777 || fs::read(&path)? != wanted.data {
                return Ok(false);
            }
            found += 1;
        }
    }
    Ok(found == payload.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Payload {
        let file = |data: &str| FileData { mode: 0o644, data: data.as_bytes().to_vec() };
        list.iter().map(|(p, d)| ((*p).to_owned(), file(d))).collect()
    }

    #[test]
    fn files_change_at_once_and_stale_ones_go() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let nothing = |_: &Path| Ok(());
        assert!(write(dir.path(), &files(&[("a", "1"), ("b/c", "2")]), &nothing)?);
        assert_eq!(fs::read_to_string(dir.path().join("b/c"))?, "2");
        assert!(!write(dir.path(), &files(&[("a", "1"), ("b/c", "2")]), &nothing)?, "nothing changed");
        let before = fs::read_link(dir.path().join(DATA))?;
        assert!(write(dir.path(), &files(&[("a", "3")]), &nothing)?);
        assert_eq!(fs::read_to_string(dir.path().join("a"))?, "3");
        assert!(!dir.path().join("b").exists());
        assert!(!dir.path().join(before).exists());
        assert!(fs::read_link(dir.path().join("a"))?.starts_with(DATA));
        Ok(())
    }

    #[test]
    fn paths_stay_inside() {
        let check = |path: &str, expected: bool| assert_eq!(valid_path(path), expected, "{path}");
        check("a/b", true);
        check("../a", false);
        check("a/../b", false);
        check("/a", false);
        check("..data", false);
        check("", false);
    }
}
