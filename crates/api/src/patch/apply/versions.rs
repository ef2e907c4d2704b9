//! Fields that are owned in other versions of a kind.
//!
//! A manager's fields are named as in the version in which it wrote. What a write changes is looked for in each of these
//! versions: the objects before and after it are turned into that version and compared there. Follows
//! `structured-merge-diff/merge/update.go` (`Updater.update`, `prune`) and
//! `apimachinery/pkg/util/managedfields/internal/versionconverter.go`.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::compare::{self, Comparison};
use super::managed::{Managed, Manager};
use super::set::Set;
use super::{Cx, field_set, merge};
use crate::schema::Node;

/// The versions of a kind.
pub trait Versions: Sync {
    /// An object of version `from` as one of version `to`.
    fn view(&self, object: &Value, from: &str, to: &str) -> View<'_>;
}

impl fmt::Debug for dyn Versions + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Versions")
    }
}

/// What an object is in another version.
#[derive(Debug)]
pub enum View<'v> {
    /// This.
    Of(Form<'v>),
    /// Nothing: there is no such version. What was owned in it is nobody's.
    Gone,
    /// Nobody here can tell. What is owned in it stays as it is.
    Closed,
}

/// An object in a version.
#[derive(Debug)]
pub struct Form<'v> {
    /// The object.
    pub object: Value,
    /// Its schema.
    pub node: Node<'v>,
    /// The fields that the server resets on this way in.
    pub reset_fields: &'v [&'v [&'v str]],
}

impl<'a> Cx<'a> {
    /// An object of version `from` in version `to`.
    fn view(&self, object: &Value, from: &str, to: &str) -> View<'a> {
        match self.versions {
            _ if from == to && to == self.api_version => {
                View::Of(Form { object: object.clone(), node: self.node, reset_fields: self.reset_fields })
            }
            Some(versions) => versions.view(object, from, to),
            None => View::Closed,
        }
    }
}

/// What a change does to the fields of one version.
pub(super) struct Differences {
    /// Fields that are other than before, or new.
    pub taken: Set,
    /// Fields that are gone.
    pub removed: Set,
}

impl Differences {
    /// Whether the change is none.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.removed.is_empty()
    }
}

impl From<Comparison> for Differences {
    fn from(comparison: Comparison) -> Self {
        let Comparison { removed, modified, added } = comparison;
        Differences { taken: modified.union(added), removed }
    }
}

/// A change as it looks in each version in which fields are owned.
pub(super) struct Change<'c> {
    /// The write.
    pub cx: &'c Cx<'c>,
    /// The object before.
    pub old: &'c Value,
    new: &'c Value,
    /// In the version of the write.
    pub own: Differences,
    others: BTreeMap<String, Option<Differences>>,
}

impl<'c> Change<'c> {
    /// A change that differs by `own` in the version of the write.
    pub fn new(cx: &'c Cx<'c>, old: &'c Value, new: &'c Value, own: Comparison) -> Self {
        Change { cx, old, new, own: own.into(), others: BTreeMap::new() }
    }

    /// The change in a version; `None` where it cannot be told.
    pub fn of(&mut self, api_version: &str) -> Option<&Differences> {
        let cx = self.cx;
        if api_version == cx.api_version {
            return Some(&self.own);
        }
        if !self.others.contains_key(api_version) {
            let view = |object: &Value| match cx.view(object, cx.api_version, api_version) {
                View::Of(form) => Some(form),
                View::Gone | View::Closed => None,
            };
            let differences = view(self.old).zip(view(self.new)).map(|(old, new)| {
                let reset = Set::of_fields(new.reset_fields.iter().copied());
                compare::compare(new.node, &old.object, &new.object).without(&reset).into()
            });
            self.others.insert(api_version.to_owned(), differences);
        }
        self.others.get(api_version).and_then(Option::as_ref)
    }
}

/// Brings the managers in line with the versions and schemas that there are: those of versions that are gone are
/// forgotten, and whoever owns something below what is one value by now owns the value.
pub(super) fn reconcile(cx: &Cx<'_>, live: &Value, managed: &mut Managed) {
    let mut others: BTreeMap<String, View<'_>> = BTreeMap::new();
    managed.retain(|manager| {
        if manager.api_version == cx.api_version {
            manager.follow(cx.node);
            return true;
        }
        let view = others
            .entry(manager.api_version.clone())
            .or_insert_with(|| cx.view(live, cx.api_version, &manager.api_version));
        match view {
            View::Of(form) => manager.follow(form.node),
            View::Closed => {}
            View::Gone => return false,
        }
        true
    });
}

/// Takes out of the merged object what the applier owned by its `last` configuration and nobody owns by now.
pub(super) fn prune(cx: &Cx<'_>, merged: &mut Value, managed: &Managed, last: &Manager) {
    let at = last.api_version.as_str();
    if at == cx.api_version {
        return prune_in(cx, at, cx.node, merged, managed, &last.fields);
    }
    let View::Of(mut form) = cx.view(merged, cx.api_version, at) else { return };
    prune_in(cx, at, form.node, &mut form.object, managed, &last.fields);
    if let View::Of(back) = cx.view(&form.object, at, cx.api_version) {
        *merged = back.object;
    }
}

fn prune_in(cx: &Cx<'_>, version: &str, node: Node<'_>, merged: &mut Value, managed: &Managed, last: &Set) {
    let last = last.with_named_fields(Some(node));
    let mut pruned = merged.clone();
    merge::remove(Some(node), &mut pruned, &last);

    // What the new configuration or another manager owns comes back, even inside of what has been taken out. The version
    // at hand comes first: what it brings back may be needed to turn the object into another.
    let mut owned: BTreeMap<&str, Set> = BTreeMap::new();
    for (_, manager) in managed.iter() {
        let set = owned.entry(manager.api_version.as_str()).or_default();
        *set = std::mem::take(set).union(manager.fields.clone());
    }
    pruned = bring_back(node, merged, &pruned, &owned.remove(version).unwrap_or_default());
    for (other, owned) in owned {
        let (View::Of(whole), View::Of(part)) = (cx.view(merged, version, other), cx.view(&pruned, version, other))
        else {
            continue;
        };
        let kept = bring_back(whole.node, &whole.object, &part.object, &owned);
        if let View::Of(back) = cx.view(&kept, other, version) {
            pruned = back.object;
        }
    }

    // And what the applier never owned was not its to remove.
    let gone = named(node, merged).difference(&named(node, &pruned)).intersection(&last);
    merge::remove(Some(node), merged, &gone);
}

fn named(node: Node<'_>, object: &Value) -> Set {
    field_set::field_set(Some(node), object).with_named_fields(Some(node))
}

/// The whole object without what is neither in the pruned one nor owned.
fn bring_back(node: Node<'_>, whole: &Value, pruned: &Value, owned: &Set) -> Value {
    let keep = named(node, pruned).union(owned.with_named_fields(Some(node)));
    let mut out = whole.clone();
    merge::remove(Some(node), &mut out, &named(node, whole).difference(&keep));
    out
}
