//! Configuration of single plugins: the file of `--admission-control-config-file`
//! (`apiserver.config.k8s.io/v1` `AdmissionConfiguration`).

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// The most a configuration file may weigh.
const MAX_BYTES: u64 = 1 << 20;

/// Configurations by the name of their plugin.
#[derive(Clone, Debug, Default)]
pub struct PluginConfigs(BTreeMap<String, Value>);

impl PluginConfigs {
    /// The configuration of a plugin; null without.
    pub fn of(&self, plugin: &str) -> &Value {
        self.0.get(plugin).unwrap_or(&Value::Null)
    }

    /// Adds a configuration.
    pub fn with(mut self, plugin: &str, config: Value) -> Self {
        self.0.insert(plugin.into(), config);
        self
    }

    /// Reads an `AdmissionConfiguration`, in YAML or JSON. `read` gives the text of a file named in it.
    pub fn parse(text: &str, read: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let file = yaml(text)?;
        let (kind, version) = (file["kind"].as_str(), file["apiVersion"].as_str().unwrap_or_default());
        let known = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];
        if kind != Some("AdmissionConfiguration") || !known.contains(&version) {
            return Err(format!("no AdmissionConfiguration: {version:?}, kind {:?}", kind.unwrap_or_default()));
        }
        let mut configs = PluginConfigs::default();
        for plugin in file["plugins"].as_array().into_iter().flatten() {
            let name = plugin["name"].as_str().unwrap_or_default();
            if super::order::position(name) == usize::MAX {
                return Err(format!("unknown admission plugin {name:?}"));
            }
            let config = match plugin["path"].as_str().filter(|p| !p.is_empty()) {
                Some(path) => yaml(&read(path)?).map_err(|e| format!("{path}: {e}"))?,
                None => plugin["configuration"].clone(),
            };
            if configs.0.insert(name.to_owned(), config).is_some() {
                return Err(format!("admission plugin {name:?} is configured twice"));
            }
        }
        Ok(configs)
    }

    /// Reads the file of `--admission-control-config-file`; paths in it are relative to it.
    pub fn load(path: &Path) -> Result<Self, String> {
        let read = |path: &Path| -> Result<String, String> {
            let failed = |e: std::io::Error| format!("admission configuration {}: {e}", path.display());
            if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
                return Err(format!("admission configuration {}: larger than 1 MiB", path.display()));
            }
            std::fs::read_to_string(path).map_err(failed)
        };
        let beside = |name: &str| read(&path.parent().unwrap_or(Path::new("/")).join(name));
        let text = read(path)?;
        PluginConfigs::parse(&text, beside).map_err(|e| format!("admission configuration {}: {e}", path.display()))
    }
}

fn yaml(text: &str) -> Result<Value, String> {
    use orkd_api::codec::{Strictness, yaml::decode_untyped};
    decode_untyped(text.as_bytes(), Strictness::Ignore).map(|(value, _)| value).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_stand_in_the_file_or_beside_it() {
        let text = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n- name: PodSecurity\n  \
                    configuration:\n    defaults:\n      enforce: baseline\n- name: EventRateLimit\n  path: event.yaml\n";
        let configs = PluginConfigs::parse(text, |path| {
            assert_eq!(path, "event.yaml");
            Ok("limits: [{type: Server}]".into())
        });
        let configs = configs.expect("parsed");
        assert_eq!(configs.of("PodSecurity")["defaults"]["enforce"], "baseline");
        assert_eq!(configs.of("EventRateLimit")["limits"][0]["type"], "Server");
        assert!(configs.of("Priority").is_null());
        let none = |_: &str| Err(String::new());
        assert!(PluginConfigs::parse("kind: Pod", none).is_err());
        let unknown = text.replace("PodSecurity", "Nope");
        assert_eq!(PluginConfigs::parse(&unknown, none).expect_err("unknown"), "unknown admission plugin \"Nope\"");
    }
}
