//! What is prepared on the node, for which pods; kept in a file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::proto;

/// The file, below the kubelet's folder.
const FILE: &str = "dra_claims.json";

/// What is known of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Entry {
    namespace: String,
    name: String,
    uid: String,
    /// Who has to prepare it.
    pub drivers: BTreeSet<String>,
    /// The uids of the pods that use it.
    pods: BTreeSet<String>,
    /// Every driver has prepared it.
    prepared: bool,
    /// What the drivers told, by their names.
    devices: BTreeMap<String, Vec<Device>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Device {
    requests: Vec<String>,
    cdi: Vec<String>,
}

impl Entry {
    /// A claim that is to be prepared by drivers.
    pub fn new(namespace: &str, name: &str, uid: &str, drivers: BTreeSet<String>) -> Entry {
        let [namespace, name, uid] = [namespace, name, uid].map(str::to_owned);
        Entry { namespace, name, uid, drivers, ..Entry::default() }
    }

    /// As drivers are told of it.
    pub fn claim(&self) -> proto::Claim {
        proto::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }
}

/// All claims of the node.
#[derive(Debug, Default)]
pub struct Ledger {
    path: Option<PathBuf>,
    entries: Vec<Entry>,
}

impl Ledger {
    /// Reads what was noted. What cannot be read is told and forgotten: drivers can be asked twice.
    pub fn open(root: Option<&Path>) -> Ledger {
        let path = root.map(|root| root.join(FILE));
        let text = path.as_ref().and_then(|path| std::fs::read(path).ok());
        let entries = text.map_or_else(Vec::new, |text| {
            serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(%error, file = FILE, "the note of prepared devices cannot be read");
                Vec::new()
            })
        });
        Ledger { path, entries }
    }

    fn save(&self) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let write = || -> io::Result<()> {
            let fresh = path.with_extension("new");
            std::fs::write(&fresh, serde_json::to_vec(&self.entries)?)?;
            std::fs::rename(&fresh, path)
        };
        write().map_err(|e| format!("checkpoint ResourceClaim state: {}: {e}", path.display()))
    }

    fn find(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.namespace == namespace && e.name == name)
    }

    /// Whether all these claims are prepared, for this pod too.
    pub fn is_ready<'a>(&self, namespace: &str, claims: impl IntoIterator<Item = &'a str>, pod: &str) -> bool {
        let is = |name| self.find(namespace, name).is_some_and(|e| e.prepared && e.pods.contains(pod));
        claims.into_iter().all(is)
    }

    /// Notes that a pod uses a claim. Whether it is prepared already.
    ///
    /// # Errors
    /// Another claim had the name and is not taken back yet; the note cannot be written.
    pub fn use_by(&mut self, entry: Entry, pod: &str) -> Result<bool, String> {
        let same = |e: &&mut Entry| e.namespace == entry.namespace && e.name == entry.name;
        let prepared = match self.entries.iter_mut().find(same) {
            Some(known) if known.uid != entry.uid => {
                return Err(format!(
                    "old ResourceClaim with same name {} and different UID {} still exists (previous pod \
                     force-deleted?!)",
                    known.name, known.uid
                ));
            }
            Some(known) => {
                known.pods.insert(pod.to_owned());
                known.prepared
            }
            None => {
                self.entries.push(Entry { pods: BTreeSet::from([pod.to_owned()]), ..entry });
                false
            }
        };
        self.save().map(|()| prepared)
    }

    /// Notes what a driver told of a claim.
    pub fn note(&mut self, uid: &str, driver: &str, devices: Vec<proto::Device>) {
        let of = |d: proto::Device| Device { requests: d.request_names, cdi: d.cdi_device_ids };
        if let Some(entry) = self.entries.iter_mut().find(|e| e.uid == uid) {
            entry.devices.insert(driver.to_owned(), devices.into_iter().map(of).collect());
        }
    }

    /// Notes that claims are prepared.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn finish(&mut self, claims: impl IntoIterator<Item = proto::Claim>) -> Result<(), String> {
        let uids: BTreeSet<String> = claims.into_iter().map(|c| c.uid).collect();
        for entry in self.entries.iter_mut().filter(|e| uids.contains(&e.uid)) {
            entry.prepared = true;
        }
        self.save()
    }

    /// Takes a pod out of the claims that others use as well. Those that it alone uses are to be taken back, and who comes
    /// from now on has them prepared anew.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn leave(&mut self, pod: &str) -> Result<Vec<Entry>, String> {
        let mut last = Vec::new();
        let mut changed = false;
        for entry in self.entries.iter_mut().filter(|e| e.pods.contains(pod)) {
            changed = true;
            if entry.pods.len() > 1 {
                entry.pods.remove(pod);
            } else {
                entry.prepared = false;
                last.push(entry.clone());
            }
        }
        if changed {
            self.save()?;
        }
        Ok(last)
    }

    /// Takes a pod out of claims that were taken back, and forgets those that nobody uses.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn remove(&mut self, gone: &[Entry], pod: &str) -> Result<(), String> {
        for entry in self.entries.iter_mut().filter(|e| gone.iter().any(|g| g.uid == e.uid)) {
            entry.pods.remove(pod);
        }
        self.entries.retain(|e| !e.pods.is_empty());
        self.save()
    }

    /// What the runtime calls the devices of a request of a claim; of all its requests for an empty one.
    pub fn devices<'a>(
        &'a self,
        namespace: &str,
        claim: &str,
        request: &'a str,
    ) -> impl Iterator<Item = &'a String> + use<'a> {
        let devices = self.find(namespace, claim).into_iter().flat_map(|e| e.devices.values().flatten());
        let is_of =
            move |d: &&Device| request.is_empty() || d.requests.is_empty() || d.requests.iter().any(|r| r == request);
        devices.filter(is_of).flat_map(|d| &d.cdi)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, uid: &str) -> Entry {
        Entry::new("n", name, uid, BTreeSet::from(["d".to_owned()]))
    }

    fn device(requests: &[&str], cdi: &[&str]) -> proto::Device {
        let texts = |list: &[&str]| list.iter().map(|t| (*t).to_owned()).collect();
        proto::Device { request_names: texts(requests), cdi_device_ids: texts(cdi), ..proto::Device::default() }
    }

    #[test]
    fn what_is_noted_outlives_the_kubelet() {
        let dir = tempfile::tempdir().expect("dir");
        let mut ledger = Ledger::open(Some(dir.path()));
        assert_eq!(ledger.use_by(entry("c", "1"), "a"), Ok(false));
        assert!(!ledger.is_ready("n", ["c"], "a"));
        ledger.note("1", "d", vec![device(&["r"], &["x=1"]), device(&[], &["x=2"])]);
        ledger.finish([entry("c", "1").claim()]).expect("noted");
        assert_eq!(ledger.use_by(entry("c", "1"), "b"), Ok(true));

        let mut again = Ledger::open(Some(dir.path()));
        assert!(again.is_ready("n", ["c"], "a") && again.is_ready("n", ["c"], "b"));
        assert!(!again.is_ready("n", ["c"], "stranger") && !again.is_ready("m", ["c"], "a"));
        let devices = |request| again.devices("n", "c", request).cloned().collect::<Vec<_>>();
        assert_eq!(
            (devices(""), devices("r"), devices("s")),
            (vec!["x=1".into(), "x=2".into()], vec!["x=1".into(), "x=2".into()], vec!["x=2".to_owned()],)
        );
        let refused = again.use_by(entry("c", "2"), "later").expect_err("the old one is there");
        assert!(
            refused.starts_with("old ResourceClaim with same name c and different UID 1 still exists"),
            "{refused}"
        );

        // The first of two leaves nothing to do, the second takes it along.
        assert_eq!(again.leave("a"), Ok(vec![]));
        let last = again.leave("b").expect("noted");
        assert_eq!(last.len(), 1);
        again.remove(&last, "b").expect("noted");
        assert_eq!(again.use_by(entry("c", "2"), "later"), Ok(false));

        std::fs::write(dir.path().join(FILE), "no json").expect("written");
        assert!(Ledger::open(Some(dir.path())).entries.is_empty());
    }

    #[test]
    fn who_comes_while_a_claim_is_taken_back_has_it_prepared_anew() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.use_by(entry("c", "1"), "a"), Ok(false));
        ledger.finish([entry("c", "1").claim()]).expect("noted");
        let last = ledger.leave("a").expect("noted");
        assert_eq!(ledger.use_by(entry("c", "1"), "b"), Ok(false));
        ledger.finish([entry("c", "1").claim()]).expect("noted");
        ledger.remove(&last, "a").expect("noted");
        assert!(ledger.is_ready("n", ["c"], "b"));
    }
}
