//! The anonymous user (`system:anonymous`), for requests that show no credential at all.

/// Where requests without a credential are let in as the anonymous user. What he may do there is the authorizers'
/// (`system:public-info-viewer`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere (`--anonymous-auth=false`).
    Off,
    /// On these paths (`AnonymousAuthConfig.conditions` of the structured configuration).
    Paths(Vec<String>),
    /// Everywhere, as upstream by default.
    #[default]
    Everywhere,
}

impl Anonymous {
    /// Whether a path takes anonymous requests.
    pub fn admits(&self, path: &str) -> bool {
        match self {
            Anonymous::Off => false,
            Anonymous::Everywhere => true,
            Anonymous::Paths(paths) => paths.iter().any(|p| p == path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_paths() {
        let paths = Anonymous::Paths(vec!["/livez".into(), "/version".into()]);
        for (path, expected) in [("/livez", true), ("/version", true), ("/livez/ping", false), ("/api", false)] {
            assert_eq!(paths.admits(path), expected, "{path}");
        }
        assert!(Anonymous::Everywhere.admits("/api") && !Anonymous::Off.admits("/livez"));
    }
}
