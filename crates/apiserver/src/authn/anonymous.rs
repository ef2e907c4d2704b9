//! The anonymous user (`system:anonymous`), for requests that show no credential at all.

/// Where requests without a credential are let in as the anonymous user. What he may do there is the authorizers'
/// (`system:public-info-viewer`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Nowhere.
    Off,
    /// On these paths (upstream: `AnonymousAuthConfig.conditions`).
    Paths(Vec<String>),
    /// Everywhere (`--anonymous-auth=true`).
    Everywhere,
}

impl Default for Anonymous {
    fn default() -> Self {
        Anonymous::Paths(["/livez", "/readyz", "/healthz", "/version"].map(str::to_owned).to_vec())
    }
}

impl Anonymous {
    /// Whether a path takes anonymous requests. What lies below a listed path (`/livez/ping`) counts with it.
    pub fn admits(&self, path: &str) -> bool {
        match self {
            Anonymous::Off => false,
            Anonymous::Everywhere => true,
            Anonymous::Paths(paths) => {
                paths.iter().any(|p| path.strip_prefix(p.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/')))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_paths_and_what_is_below_them() {
        let paths = Anonymous::default();
        for path in ["/livez", "/livez/ping", "/version", "/version/"] {
            assert!(paths.admits(path), "{path}");
        }
        for path in ["/", "/api", "/livezz", "/metrics"] {
            assert!(!paths.admits(path), "{path}");
        }
        assert!(Anonymous::Everywhere.admits("/api") && !Anonymous::Off.admits("/livez"));
    }
}
