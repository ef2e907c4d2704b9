//! What a list or watch is narrowed to: the selectors of [`orkd_api::selector`] on entries of the cache.

use crate::cache::Entry;

pub use orkd_api::selector::{FieldSelector, FieldTerm, LabelSelector};

/// Gives each term the name of its field, or says that there is none ([`orkd_api::kind::Kind::field_label`]).
pub fn name_fields(selector: &mut FieldSelector, name: impl Fn(&str) -> Result<&str, String>) -> Result<(), String> {
    for term in &mut selector.terms {
        let named = name(&term.field)?;
        if named != term.field {
            term.field = named.to_owned();
        }
    }
    Ok(())
}

/// Whether a field is name or namespace, which stand in an entry's key.
fn in_key(field: &str) -> bool {
    field == "metadata.name" || field == "metadata.namespace"
}

/// What a list or watch is narrowed to.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Labels.
    pub labels: LabelSelector,
    /// Fields.
    pub fields: FieldSelector,
}

impl Filter {
    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// Whether fields other than name and namespace count.
    pub fn by_fields(&self) -> bool {
        self.fields.terms.iter().any(|t| !in_key(&t.field))
    }

    /// The first field other than name and namespace that must have a value: watchers are kept by it.
    pub fn pinned(&self) -> Option<(&str, &str)> {
        let pinned = self.fields.terms.iter().find(|t| t.equal && !in_key(&t.field));
        pinned.map(|t| (t.field.as_str(), t.value.as_str()))
    }

    /// What is left to be asked of an object that has this name.
    pub fn without_name(mut self, name: &str) -> Self {
        self.fields.terms.retain(|t| !(t.equal && t.field == "metadata.name" && t.value == name));
        self
    }

    /// Whether an entry matches.
    pub fn matches(&self, entry: &Entry) -> bool {
        self.fields.matches(|field| entry.field(field)) && self.labels.matches(|label| entry.label(label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_knows_what_it_is_kept_by() {
        let parse = |text: &str| FieldSelector::parse(text).expect("parses");
        let filter = |text: &str| Filter { fields: parse(text), labels: LabelSelector::default() };
        assert_eq!(filter("metadata.name=a,spec.nodeName=n1").pinned(), Some(("spec.nodeName", "n1")));
        assert_eq!(filter("metadata.name=a,status.phase!=Failed").pinned(), None);
        assert!(!filter("metadata.name=a").by_fields() && filter("status.phase!=Failed").by_fields());
        assert!(filter("metadata.name=a").without_name("a").is_empty());
        assert_eq!(filter("metadata.name=a,metadata.name=b").without_name("a").fields, parse("metadata.name=b"));
        assert!(Filter::default().is_empty() && !filter("a=b").is_empty());
        fn name(field: &str) -> Result<&str, String> {
            match field {
                "x" => Ok("b"),
                "y" => Err("no y".to_owned()),
                other => Ok(other),
            }
        }
        let mut fields = parse("a=1,x!=2");
        name_fields(&mut fields, name).expect("they have names");
        assert_eq!(fields.to_string(), "a=1,b!=2");
        assert_eq!(name_fields(&mut parse("a=1,y=2"), name), Err("no y".into()));
    }
}
