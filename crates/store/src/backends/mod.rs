//! The backends: one folder or file and one line here each. Only the binary crate and tests name a concrete one.

pub mod embedded;
pub mod etcd;

/// The names of the backends, as `--datastore-endpoint` and the contract tests tell them apart.
pub fn all() -> &'static [&'static str] {
    &[embedded::NAME, etcd::NAME]
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_backend_has_a_name_of_its_own() {
        let mut names = super::all().to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), super::all().len());
    }
}
