//! What the pods of the node were granted, kept in a file: a restarted kubelet must know what its containers have, and
//! cannot tell from specs, which may have been changed meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::grant::Grant;

/// The file, below the kubelet's folder.
const FILE: &str = "allocated_pods.json";

/// What is known of a pod.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// What it was granted.
    pub granted: Grant,
    /// What is in force, while that is something else: a resize is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force: Option<Grant>,
}

/// All pods of the node, by uid.
#[derive(Debug, Default)]
pub struct Ledger {
    path: Option<PathBuf>,
    notes: BTreeMap<String, Note>,
}

impl Ledger {
    /// Reads what was noted. What cannot be read is told and forgotten: pods are then taken to have what they ask for.
    pub fn open(root: Option<&Path>) -> Ledger {
        let path = root.map(|root| root.join(FILE));
        let text = path.as_ref().and_then(|path| std::fs::read(path).ok());
        let notes = text.map_or_else(BTreeMap::new, |text| {
            serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, file = FILE, "the note of allocated resources cannot be read");
                BTreeMap::new()
            })
        });
        Ledger { path, notes }
    }

    /// What is noted of a pod.
    pub fn get(&self, uid: &str) -> Option<&Note> {
        self.notes.get(uid)
    }

    /// Notes something of a pod.
    ///
    /// # Errors
    /// The note cannot be written; then it is as if it had not been made.
    pub fn put(&mut self, uid: &str, note: Note) -> io::Result<()> {
        if self.notes.get(uid) == Some(&note) {
            return Ok(());
        }
        let before = self.notes.insert(uid.to_owned(), note);
        let saved = self.save();
        if saved.is_err() {
            match before {
                Some(before) => drop(self.notes.insert(uid.to_owned(), before)),
                None => drop(self.notes.remove(uid)),
            }
        }
        saved
    }

    /// Keeps the notes of these pods only. One that could not be removed from the file goes with the next that can.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let before = self.notes.len();
        self.notes.retain(|uid, _| keep(uid));
        if self.notes.len() != before
            && let Err(error) = self.save()
        {
            tracing::warn!(%error, file = FILE, "the note of allocated resources cannot be written");
        }
    }

    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, serde_json::to_vec(&self.notes)?)?;
        std::fs::rename(&fresh, path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_outlive_the_kubelet() {
        let dir = tempfile::tempdir().expect("dir");
        let note = |resources: &str| {
            let containers = BTreeMap::from([("c".to_owned(), serde_json::from_str(resources).expect("resources"))]);
            Note { granted: Grant { containers, pod: None }, in_force: None }
        };
        let small = note(r#"{"requests": {"cpu": "1"}}"#);
        let resizing = Note { in_force: Some(small.granted.clone()), ..note(r#"{"limits": {"cpu": "2"}}"#) };
        let mut ledger = Ledger::open(Some(dir.path()));
        ledger.put("a", small.clone()).expect("noted");
        ledger.put("b", resizing.clone()).expect("noted");
        ledger.put("c", small.clone()).expect("noted");
        ledger.retain(|uid| uid != "c");

        let mut again = Ledger::open(Some(dir.path()));
        assert_eq!((again.get("a"), again.get("b"), again.get("c")), (Some(&small), Some(&resizing), None));
        // What cannot be written is not so.
        std::fs::remove_dir_all(dir.path()).expect("removed");
        assert!(again.put("a", resizing).is_err() && again.put("d", small.clone()).is_err());
        assert_eq!((again.get("a"), again.get("d")), (Some(&small), None));
    }

    #[test]
    fn what_cannot_be_read_is_forgotten() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join(FILE), "no json").expect("written");
        assert!(Ledger::open(Some(dir.path())).notes.is_empty());
    }
}
