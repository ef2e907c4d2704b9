//! One object in the watch cache: its encoded bytes and the few facts that selectors need.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use orkd_api::kind::{Kind, Name};
use orkd_api::table::Template;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::sparse;
use super::splice::{self, Layout};

/// An object as it stands in the cache. Shared by every reader; never changed.
pub struct Entry {
    /// `NAMESPACE/NAME` or `NAME`: the storage key below the resource's prefix.
    pub key: Arc<str>,
    /// Revision of the commit that wrote it: its resourceVersion.
    pub revision: u64,
    json: Bytes,
    /// The kind of the event that brought it, and the event as a watch frame: the same memory as the object.
    frame: Option<(&'static str, Bytes)>,
    layout: Layout,
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(Name, Box<str>)]>,
    value: OnceLock<Arc<Value>>,
    protobuf: OnceLock<Bytes>,
    row: OnceLock<Box<Row>>,
    views: OnceLock<Box<Mutex<Views>>>,
}

/// What a table shows of an object.
struct Row {
    /// The cells; `None` where they must be made anew each time.
    cells: Option<Template>,
    /// The conditions of the row, encoded; empty for nearly all.
    conditions: Box<[u8]>,
    /// Where the metadata are in the JSON.
    metadata: std::ops::Range<usize>,
}

/// Forms of an object in other served versions, by the version's type.
type Views = Vec<(Name, Arc<Entry>)>;

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMeta,
}

#[derive(Deserialize, Default)]
struct HeadMeta {
    #[serde(default)]
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
}

impl Entry {
    /// Takes a stored value into the cache. `None` if it is no object at all.
    pub fn new(kind: &dyn Kind, selectable: bool, key: Arc<str>, stored: &Bytes, revision: u64) -> Option<Entry> {
        Entry::brought_by(kind, selectable, key, stored, revision, "")
    }

    /// The same for the value of an event (`ADDED`, `MODIFIED`), which is laid out so that watchers share it.
    pub fn brought_by(
        kind: &dyn Kind,
        selectable: bool,
        key: Arc<str>,
        stored: &Bytes,
        revision: u64,
        event: &'static str,
    ) -> Option<Entry> {
        let (before, after) = match event {
            "" => (String::new(), &b""[..]),
            event => (format!("{{\"type\":\"{event}\",\"object\":"), &b"}\n"[..]),
        };
        let insert = |json: &[u8]| splice::insert_between(json, revision, before.as_bytes(), after);
        let (whole, mut layout) = match insert(stored) {
            Some(found) if !stored.starts_with(b"k8s\0") => found,
            _ => {
                let value = crate::codec::decode_stored(kind, stored)?;
                insert(&crate::codec::encode_stored(kind, &value))?
            }
        };
        if kind.custom().is_some() {
            // Each of them says its type in a list, too.
            layout.fields = 0;
        }
        let json = whole.slice(before.len()..whole.len() - after.len());
        let (labels, fields): (Vec<_>, Vec<_>) = if selectable {
            let value = sparse::decode(&json, kind.selectable_lists())?;
            let fields = kind.selectable_fields(&value).into_iter().map(|(k, v)| (k, v.into_boxed_str())).collect();
            let labels = match &value["metadata"]["labels"] {
                Value::Object(map) => {
                    map.iter().map(|(k, v)| (k.as_str().into(), v.as_str().unwrap_or_default().into())).collect()
                }
                _ => Vec::new(),
            };
            (labels, fields)
        } else {
            let head: Head = serde_json::from_slice(&json).ok()?;
            (head.metadata.labels.unwrap_or_default().into_iter().collect(), Vec::new())
        };
        Some(Entry {
            key,
            revision,
            json,
            frame: (!event.is_empty()).then_some((event, whole)),
            layout,
            labels: labels.into(),
            fields: fields.into(),
            value: OnceLock::new(),
            protobuf: OnceLock::new(),
            row: OnceLock::new(),
            views: OnceLock::new(),
        })
    }

    fn row(&self, kind: &dyn Kind) -> &Row {
        self.row.get_or_init(|| {
            let object = self.decode();
            let conditions = kind.row_conditions(&object);
            let encoded =
                if conditions.is_empty() { Vec::new() } else { serde_json::to_vec(&conditions).unwrap_or_default() };
            Box::new(Row {
                cells: Template::new(kind, &object),
                conditions: encoded.into(),
                metadata: splice::metadata_range(&self.json).unwrap_or_default(),
            })
        })
    }

    /// Writes the cells of a table as JSON.
    pub fn write_cells(&self, kind: &dyn Kind, now: jiff::Timestamp, out: &mut BytesMut) {
        match &self.row(kind).cells {
            Some(cells) => cells.write(now, out),
            None => {
                let cells = kind.cells(&self.decode(), now);
                out.extend_from_slice(&serde_json::to_vec(&cells).unwrap_or_default());
            }
        }
    }

    /// The conditions of the row of a table as JSON; empty where there are none.
    pub fn row_conditions(&self, kind: &dyn Kind) -> &[u8] {
        &self.row(kind).conditions
    }

    /// The encoded metadata, found once for an object that is shown in tables.
    pub fn metadata(&self) -> &[u8] {
        let range = match self.row.get() {
            Some(row) => row.metadata.clone(),
            None => splice::metadata_range(&self.json).unwrap_or_default(),
        };
        self.json.get(range).filter(|m| !m.is_empty()).unwrap_or(b"{}")
    }

    /// The object's namespace; empty for cluster-wide kinds.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The object as JSON, resourceVersion included.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The watch frame of the event that brought it, where it was of this kind.
    pub fn frame(&self, event: &str) -> Option<Bytes> {
        self.frame.as_ref().filter(|(e, _)| *e == event).map(|(_, frame)| frame.clone())
    }

    /// The object as it stands in a list: JSON from its first field after `kind` and `apiVersion` on, to be
    /// written after an opening brace.
    pub fn list_item(&self) -> &[u8] {
        let from = if self.layout.fields == 0 { 1 } else { self.layout.fields as usize };
        &self.json[from..]
    }

    /// The object as JSON with another resourceVersion, as events of removal show it.
    pub fn json_at(&self, revision: u64) -> Bytes {
        splice::replace_version(&self.json, self.layout, revision)
    }

    /// Labels, sorted by key.
    pub fn labels(&self) -> &[(Box<str>, Box<str>)] {
        &self.labels
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// Selectable fields beside `metadata.name` and `metadata.namespace`.
    pub fn fields(&self) -> &[(Name, Box<str>)] {
        &self.fields
    }

    /// The value of a selectable field.
    pub fn field(&self, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(k, _)| k == label).map(|(_, v)| &**v),
        }
    }

    /// Decodes the object, anew each time.
    pub fn decode(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// Decodes into a trimmed view.
    pub fn read<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.json)
    }

    /// The decoded object, kept with the entry from the first call on. For small objects that are read often
    /// (roles, namespaces); others are better decoded for the moment ([`Entry::decode`], [`Entry::read`]).
    pub fn value(&self) -> &Arc<Value> {
        self.value.get_or_init(|| Arc::new(self.decode()))
    }

    /// The protobuf form, made on the first call.
    pub fn protobuf(&self, make: impl FnOnce(&Value) -> Bytes) -> &Bytes {
        self.protobuf.get_or_init(|| make(&self.decode()))
    }

    /// Whether a custom object is of a version. What this server writes begins with the version.
    pub fn is_of(&self, group: &str, version: &str) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version<'a> {
            #[serde(borrow, default)]
            api_version: std::borrow::Cow<'a, str>,
        }
        let said = self.json.strip_prefix(b"{\"apiVersion\":\"").and_then(|rest| {
            let end = rest.iter().position(|b| *b == b'"')?;
            std::str::from_utf8(&rest[..end]).ok()
        });
        let same = |said: &str| said.split_once('/') == Some((group, version));
        match said {
            Some(said) => same(said),
            None => self.read::<Version<'_>>().is_ok_and(|v| same(&v.api_version)),
        }
    }

    /// The object in another served version, where it has been made.
    pub fn known_view(&self, version: &Name) -> Option<Arc<Entry>> {
        let views = self.views.get()?.lock();
        views.iter().find(|(v, _)| v == version).map(|(_, entry)| entry.clone())
    }

    /// The object in another served version, made on the first call.
    pub fn view(&self, version: &Name, make: impl FnOnce(&Value) -> Option<Entry>) -> Option<Arc<Entry>> {
        let views = self.views.get_or_init(Box::default);
        let mut views = views.lock();
        if let Some((_, entry)) = views.iter().find(|(v, _)| v == version) {
            return Some(entry.clone());
        }
        let entry = Arc::new(make(&self.decode())?);
        views.push((version.clone(), entry.clone()));
        Some(entry)
    }
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::watch_cache::frame;

    #[test]
    fn an_event_and_its_object_are_one_memory() {
        let kinds = orkd_api::kinds::all();
        let kind = kinds.iter().find(|k| k.info().kind == "ConfigMap").expect("a kind");
        let stored = Bytes::from_static(br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","uid":"u"}}"#);
        let plain = Entry::new(&**kind, false, "d/a".into(), &stored, 7).expect("an entry");
        assert_eq!(plain.frame("ADDED"), None);
        for event in ["ADDED", "MODIFIED"] {
            let entry = Entry::brought_by(&**kind, false, "d/a".into(), &stored, 7, event).expect("an entry");
            assert_eq!(entry.json(), plain.json());
            assert_eq!(entry.frame(event), Some(frame(event, plain.json())));
            assert_eq!(entry.frame("DELETED"), None);
            assert_eq!(entry.json_at(8), plain.json_at(8), "the layout is that of the object");
            assert_eq!(entry.list_item(), plain.list_item());
            assert_eq!(entry.metadata(), br#"{"name":"a","uid":"u","resourceVersion":"7"}"#);
        }
    }
}
