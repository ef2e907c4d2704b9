//! Levels, versions and the labels of namespaces (`k8s.io/pod-security-admission/api`).

use std::fmt;

use orkd_api::field::{ErrorList, Path};
use serde_json::Value;

/// How much is forbidden; each level forbids what the one before does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    Privileged,
    /// Known ways out of a container.
    Baseline,
    /// All but what hardened pods need.
    Restricted,
}

impl Level {
    /// The level of a name.
    pub fn parse(name: &str) -> Option<Level> {
        match name {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// Of which version of Kubernetes the checks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.N`.
    Minor(u32),
    /// Of this server.
    Latest,
}

impl Version {
    /// `latest` or `v1.N`.
    pub fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(Version::Minor)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// A level of a version, written `restricted:latest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    /// The level.
    pub level: Level,
    /// The version.
    pub version: Version,
}

impl LevelVersion {
    /// What holds where nothing is said.
    pub const PRIVILEGED: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::Latest };

    /// Whether nothing is forbidden.
    pub fn is_privileged(self) -> bool {
        self.level == Level::Privileged
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What is refused, what is noted in the audit log and what the client is warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Refused.
    pub enforce: LevelVersion,
    /// Noted.
    pub audit: LevelVersion,
    /// Warned of.
    pub warn: LevelVersion,
}

impl Policy {
    /// Nothing is forbidden.
    pub const PRIVILEGED: Policy =
        Policy { enforce: LevelVersion::PRIVILEGED, audit: LevelVersion::PRIVILEGED, warn: LevelVersion::PRIVILEGED };

    /// Whether nothing is forbidden in any mode.
    pub fn is_privileged(&self) -> bool {
        self.enforce.is_privileged() && self.audit.is_privileged() && self.warn.is_privileged()
    }

    /// `enforce=restricted:latest`, with the other modes where they differ.
    pub fn compact(&self) -> String {
        let mut text = format!("enforce={}", self.enforce);
        for (mode, level) in [("audit", self.audit), ("warn", self.warn)] {
            if level != self.enforce {
                text.push_str(&format!(", {mode}={level}"));
            }
        }
        text
    }
}

const PREFIX: &str = "pod-security.kubernetes.io/";

/// The policy that a namespace's labels ask for, with `defaults` where they do not say. Wrong labels are errors, and
/// count as `restricted` for enforcement, as `privileged` for the other modes, and as `latest`.
pub fn of_labels(labels: &Value, defaults: &Policy) -> (Policy, ErrorList) {
    let mut errors = ErrorList::new();
    let mut policy = *defaults;
    let modes = [
        ("enforce", &mut policy.enforce, Level::Restricted),
        ("audit", &mut policy.audit, Level::Privileged),
        ("warn", &mut policy.warn, Level::Privileged),
    ];
    for (mode, of, wrong) in modes {
        let path = |label: &str| Path::new("metadata").child("labels").key(label);
        let label = format!("{PREFIX}{mode}");
        if let Some(text) = labels.get(&label).and_then(Value::as_str) {
            of.level = Level::parse(text).unwrap_or_else(|| {
                errors.invalid(&path(&label), text, "must be one of privileged, baseline, restricted");
                wrong
            });
        }
        let label = format!("{label}-version");
        if let Some(text) = labels.get(&label).and_then(Value::as_str) {
            of.version = Version::parse(text).unwrap_or_else(|| {
                errors.invalid(&path(&label), text, "must be \"latest\" or \"v1.x\"");
                Version::Latest
            });
        }
    }
    (policy, errors)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_become_a_policy() {
        let check = |labels: Value, expected: &str, errors: usize| {
            let (policy, found) = of_labels(&labels, &Policy::PRIVILEGED);
            assert_eq!((policy.compact().as_str(), found.0.len()), (expected, errors), "{labels}");
        };
        let l = |k: &str| format!("{PREFIX}{k}");
        check(Value::Null, "enforce=privileged:latest", 0);
        check(
            json!({l("enforce"): "baseline", l("enforce-version"): "v1.20"}),
            "enforce=baseline:v1.20, audit=privileged:latest, warn=privileged:latest",
            0,
        );
        check(
            json!({l("enforce"): "x", l("warn"): "y"}),
            "enforce=restricted:latest, audit=privileged:latest, warn=privileged:latest",
            2,
        );
        for wrong in ["v1", "1.20", "v1.020", "v2.0", "v1.x"] {
            assert_eq!(Version::parse(wrong), None, "{wrong}");
        }
        let (_, errors) = of_labels(&json!({l("enforce"): "x"}), &Policy::PRIVILEGED);
        assert_eq!(
            errors.0[0].to_string(),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, \
             baseline, restricted"
        );
    }
}
