//! Sets of field paths.
//!
//! Follows `structured-merge-diff/fieldpath/set.go`. There a set is two sorted collections a level (members and
//! children); here it is one sorted vector a level, so every operation is one merge of two vectors.

use std::cmp::Ordering;

use super::path::PathElement;
use crate::schema::{Node, NodeKind};

/// A set of paths.
///
/// Invariant: entries are sorted by element, each element once, and each entry is a member or has something below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(Vec<Entry>);

/// The paths of a set that begin with one element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The first step.
    pub element: PathElement,
    /// Whether the path of this one step is in the set.
    pub member: bool,
    /// The longer paths, without the first step.
    pub below: Set,
}

impl Entry {
    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

static EMPTY: Set = Set(Vec::new());

impl Set {
    /// The empty set.
    pub const fn new() -> Self {
        Set(Vec::new())
    }

    /// Whether there is no path.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first level, sorted.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.0
    }

    /// A set of paths of field names.
    pub fn of_fields<'p>(paths: impl IntoIterator<Item = &'p [&'p str]>) -> Self {
        let mut set = Set::new();
        for path in paths {
            let path: Vec<PathElement> = path.iter().map(|name| PathElement::field(name)).collect();
            set.insert(&path);
        }
        set
    }

    /// Adds a path. The empty path is the whole value, which every set is about: nothing is added.
    pub fn insert(&mut self, path: &[PathElement]) {
        let Some((first, rest)) = path.split_first() else { return };
        let at = match self.0.binary_search_by(|e| e.element.cmp(first)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, Entry { element: first.clone(), member: false, below: Set::new() });
                at
            }
        };
        if rest.is_empty() { self.0[at].member = true } else { self.0[at].below.insert(rest) }
    }

    /// Adds what a walk found below one element. Cheap when elements come in order.
    pub(super) fn push(&mut self, element: impl FnOnce() -> PathElement, member: bool, below: Set) {
        if !member && below.is_empty() {
            return;
        }
        let entry = Entry { element: element(), member, below };
        match self.0.last().map(|last| last.element.cmp(&entry.element)) {
            None | Some(Ordering::Less) => self.0.push(entry),
            _ => match self.0.binary_search_by(|e| e.element.cmp(&entry.element)) {
                Ok(at) => {
                    let old = &mut self.0[at];
                    old.member |= entry.member;
                    old.below = std::mem::take(&mut old.below).union(entry.below);
                }
                Err(at) => self.0.insert(at, entry),
            },
        }
    }

    fn get(&self, element: &PathElement) -> Option<&Entry> {
        self.0.binary_search_by(|e| e.element.cmp(element)).ok().map(|at| &self.0[at])
    }

    /// Whether the path of this one step is in the set.
    pub fn has_element(&self, element: &PathElement) -> bool {
        self.get(element).is_some_and(|e| e.member)
    }

    /// Whether a path is in the set.
    pub fn has(&self, path: &[PathElement]) -> bool {
        match path {
            [] => false,
            [last] => self.has_element(last),
            [first, rest @ ..] => self.below(first).has(rest),
        }
    }

    /// The longer paths that begin with an element, without it.
    pub fn below(&self, element: &PathElement) -> &Set {
        self.get(element).map_or(&EMPTY, |e| &e.below)
    }

    /// The paths of either set.
    pub fn union(self, other: Set) -> Set {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        let mut out = Vec::with_capacity(self.0.len().max(other.0.len()));
        let mut left = self.0.into_iter().peekable();
        let mut right = other.0.into_iter().peekable();
        loop {
            let order = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) => a.element.cmp(&b.element),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Set(out),
            };
            let next = match order {
                Ordering::Less => left.next(),
                Ordering::Greater => right.next(),
                Ordering::Equal => match (left.next(), right.next()) {
                    (Some(a), Some(b)) => {
                        Some(Entry { member: a.member || b.member, below: a.below.union(b.below), ..a })
                    }
                    (a, b) => a.or(b),
                },
            };
            out.extend(next);
        }
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &Set) -> Set {
        let mut out = Vec::new();
        self.zip(other, |a, b| {
            if let (Some(a), Some(b)) = (a, b) {
                out.push(Entry {
                    element: a.element.clone(),
                    member: a.member && b.member,
                    below: a.below.intersection(&b.below),
                });
            }
        });
        Set(out).without_empty()
    }

    /// The paths of this set that are not in the other. What lies below a path of the other stays.
    pub fn difference(&self, other: &Set) -> Set {
        let mut out = Vec::with_capacity(self.0.len());
        self.zip(other, |a, b| match (a, b) {
            (Some(a), None) => out.push(a.clone()),
            (Some(a), Some(b)) => out.push(Entry {
                element: a.element.clone(),
                member: a.member && !b.member,
                below: a.below.difference(&b.below),
            }),
            _ => {}
        });
        Set(out).without_empty()
    }

    /// [`Set::difference`] where the set itself is not needed any more.
    pub(super) fn without(mut self, other: &Set) -> Set {
        let mut rest = other.0.iter().peekable();
        self.0.retain_mut(|entry| {
            while rest.next_if(|o| o.element < entry.element).is_some() {}
            if let Some(other) = rest.next_if(|o| o.element == entry.element) {
                entry.member &= !other.member;
                entry.below = std::mem::take(&mut entry.below).without(&other.below);
            }
            !entry.is_empty()
        });
        self
    }

    /// The paths of this set that are neither in the other nor below one of its paths.
    pub fn recursive_difference(&self, other: &Set) -> Set {
        let mut out = Vec::with_capacity(self.0.len());
        self.zip(other, |a, b| match (a, b) {
            (Some(a), None) => out.push(a.clone()),
            (Some(a), Some(b)) if !b.member => out.push(Entry {
                element: a.element.clone(),
                member: a.member,
                below: a.below.recursive_difference(&b.below),
            }),
            _ => {}
        });
        Set(out).without_empty()
    }

    /// The paths below which the set has no other.
    pub fn leaves(&self) -> Set {
        let leaf = |e: &Entry| Entry {
            element: e.element.clone(),
            member: e.member && e.below.is_empty(),
            below: e.below.leaves(),
        };
        Set(self.0.iter().map(leaf).collect()).without_empty()
    }

    /// Calls `f` with the two entries of each element that is in either set, in order.
    fn zip<'s>(&'s self, other: &'s Set, mut f: impl FnMut(Option<&'s Entry>, Option<&'s Entry>)) {
        let (mut i, mut j) = (0, 0);
        loop {
            match (self.0.get(i), other.0.get(j)) {
                (None, None) => return,
                (Some(a), Some(b)) => match a.element.cmp(&b.element) {
                    Ordering::Less => {
                        f(Some(a), None);
                        i += 1;
                    }
                    Ordering::Greater => {
                        f(None, Some(b));
                        j += 1;
                    }
                    Ordering::Equal => {
                        f(Some(a), Some(b));
                        i += 1;
                        j += 1;
                    }
                },
                (a, b) => {
                    f(a, b);
                    i += 1;
                    j += 1;
                }
            }
        }
    }

    fn without_empty(mut self) -> Set {
        self.0.retain(|e| !e.is_empty());
        self
    }

    /// The set with the path to each field of a struct that has a path below it. (An object of known fields is
    /// owned through its fields and not listed itself; to remove it with its last field it must be listed.)
    pub(super) fn with_named_fields(&self, node: Option<Node<'_>>) -> Set {
        let entry = |e: &Entry| {
            let below = match (&e.element, node) {
                (PathElement::Field(name), Some(node)) => node.child(name),
                (PathElement::Key(_), Some(node)) => node.items(),
                _ => None,
            };
            let named = match (&e.element, node) {
                (PathElement::Field(name), Some(node)) => node.kind() == NodeKind::Struct && node.field(name).is_some(),
                _ => false,
            };
            Entry { element: e.element.clone(), member: e.member || named, below: e.below.with_named_fields(below) }
        };
        Set(self.0.iter().map(entry).collect())
    }

    /// Every path, in upstream's order: at each level the members first, then what is below.
    pub fn paths(&self) -> Vec<Vec<PathElement>> {
        let mut out = Vec::new();
        self.collect_paths(&mut Vec::new(), &mut out);
        out
    }

    fn collect_paths(&self, prefix: &mut Vec<PathElement>, out: &mut Vec<Vec<PathElement>>) {
        for entry in self.0.iter().filter(|e| e.member) {
            let mut path = prefix.clone();
            path.push(entry.element.clone());
            out.push(path);
        }
        for entry in self.0.iter().filter(|e| !e.below.is_empty()) {
            prefix.push(entry.element.clone());
            entry.below.collect_paths(prefix, out);
            prefix.pop();
        }
    }
}

/// A path as in messages: `.spec.containers[name="a"].image`.
pub fn path_text(path: &[PathElement]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::patch::testing::node;

    /// A set from paths such as `.a`, `.a.b`.
    fn set(paths: &[&str]) -> Set {
        let mut set = Set::new();
        for path in paths {
            let path: Vec<PathElement> = path.split('.').skip(1).map(PathElement::field).collect();
            set.insert(&path);
        }
        set
    }

    fn texts(set: &Set) -> Vec<String> {
        set.paths().iter().map(|p| path_text(p)).collect()
    }

    #[test]
    fn operations() {
        let a = set(&[".a", ".a.x", ".a.y", ".b.z", ".c"]);
        let b = set(&[".a", ".a.y", ".b", ".d"]);
        assert_eq!(a.clone().union(b.clone()), set(&[".a", ".a.x", ".a.y", ".b", ".b.z", ".c", ".d"]));
        assert_eq!(a.intersection(&b), set(&[".a", ".a.y"]));
        assert_eq!(a.difference(&b), set(&[".a.x", ".b.z", ".c"]));
        assert_eq!(a.recursive_difference(&b), set(&[".c"]));
        assert_eq!(a.leaves(), set(&[".a.x", ".a.y", ".b.z", ".c"]));
        assert_eq!(texts(&a), [".a", ".c", ".a.x", ".a.y", ".b.z"]);
        assert!(a.has(&[PathElement::field("b"), PathElement::field("z")]));
        assert!(!a.has(&[PathElement::field("b")]));
    }

    #[test]
    fn named_fields_become_members() {
        let got = set(&[".spec.hostname", ".metadata.labels.x"]).with_named_fields(Some(node("core/v1.Pod")));
        assert_eq!(got, set(&[".spec", ".spec.hostname", ".metadata", ".metadata.labels", ".metadata.labels.x"]));
    }

    /// Sets of short paths.
    pub(in crate::patch::apply) fn any_set() -> impl Strategy<Value = Set> {
        let element = prop_oneof![
            4 => "[a-c]".prop_map(PathElement::Field),
            1 => (1i64..4).prop_map(|n| PathElement::Key(vec![("k".into(), n.into())])),
            1 => "[a-c<]".prop_map(|s| PathElement::Value(s.into())),
            1 => (0i64..3).prop_map(PathElement::Index),
        ];
        prop::collection::vec(prop::collection::vec(element, 1..4), 0..8).prop_map(|paths| {
            let mut set = Set::new();
            paths.iter().for_each(|path| set.insert(path));
            set
        })
    }

    fn well_formed(set: &Set) -> bool {
        set.0.windows(2).all(|w| w[0].element < w[1].element)
            && set.0.iter().all(|e| !e.is_empty() && well_formed(&e.below))
    }

    proptest! {
        #[test]
        fn algebra(a in any_set(), b in any_set()) {
            let union = a.clone().union(b.clone());
            let (both, only_a, only_b) = (a.intersection(&b), a.difference(&b), b.difference(&a));
            prop_assert_eq!(&a.clone().without(&b), &only_a);
            for set in [&union, &both, &only_a, &only_b, &a.leaves(), &a.recursive_difference(&b)] {
                prop_assert!(well_formed(set));
            }
            prop_assert_eq!(&union, &b.clone().union(a.clone()));
            prop_assert_eq!(&both.clone().union(only_a.clone()), &a);
            prop_assert_eq!(&only_a.clone().union(b.clone()), &union);
            for path in union.paths() {
                prop_assert_eq!(both.has(&path), a.has(&path) && b.has(&path));
                prop_assert_eq!(only_a.has(&path), a.has(&path) && !b.has(&path));
                let covered = (1..=path.len()).any(|n| b.has(&path[..n]));
                prop_assert_eq!(a.recursive_difference(&b).has(&path), a.has(&path) && !covered);
            }
        }
    }
}
