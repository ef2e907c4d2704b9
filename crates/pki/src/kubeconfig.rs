//! Kubeconfig files: `clientcmd/api/v1.Config`, as far as credentials go; what is not known is kept.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cert::Identity;
use crate::files::{self, Durability, Mode};
use crate::{Error, Result};

/// A kubeconfig file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    /// `Config`.
    #[serde(default)]
    pub kind: String,
    /// Where clusters are.
    #[serde(default)]
    pub clusters: Vec<Named<Cluster, ClusterKey>>,
    /// Who to be.
    #[serde(default)]
    pub users: Vec<Named<User, UserKey>>,
    /// Pairs of both.
    #[serde(default)]
    pub contexts: Vec<Named<Context, ContextKey>>,
    /// The pair in use.
    #[serde(rename = "current-context", default)]
    pub current_context: String,
    /// What this crate does not know.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// An entry of one of the lists. The value stands under a key of its own in each list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Named<T, K> {
    /// The entry's name.
    pub name: String,
    /// What it is.
    pub value: T,
    key: std::marker::PhantomData<K>,
}

impl<T, K> Named<T, K> {
    /// An entry.
    pub fn new(name: &str, value: T) -> Self {
        Named { name: name.into(), value, key: std::marker::PhantomData }
    }
}

/// Names the key an entry's value stands under.
pub trait Key {
    /// The key.
    const NAME: &'static str;
}

macro_rules! keys {
    ($($type:ident = $name:literal),*) => {$(
        /// The key of one list.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $type;
        impl Key for $type {
            const NAME: &'static str = $name;
        }
    )*};
}
keys!(ClusterKey = "cluster", UserKey = "user", ContextKey = "context");

impl<T: Serialize, K: Key> Serialize for Named<T, K> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        let mut map = s.serialize_map(Some(2))?;
        map.serialize_entry("name", &self.name)?;
        map.serialize_entry(K::NAME, &self.value)?;
        map.end()
    }
}

impl<'de, T: serde::de::DeserializeOwned + Default, K: Key> Deserialize<'de> for Named<T, K> {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let mut map = serde_json::Map::<String, Value>::deserialize(d)?;
        let name = map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let value = match map.remove(K::NAME) {
            None | Some(Value::Null) => T::default(),
            Some(v) => serde_json::from_value(v).map_err(serde::de::Error::custom)?,
        };
        Ok(Named { name, value, key: std::marker::PhantomData })
    }
}

/// Where a cluster is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cluster {
    /// URL of the API server.
    #[serde(default)]
    pub server: String,
    /// Trusted authorities, PEM in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Trusted authorities, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<PathBuf>,
    /// What this crate does not know.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// Who to be.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// Certificate, PEM in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Key, PEM in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// Certificate, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    /// Key, a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// Bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Bearer token, a file that is read again when it changes.
    #[serde(rename = "tokenFile", default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    /// What this crate does not know.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User([hidden])")
    }
}

/// A cluster and a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Context {
    /// Name of the cluster.
    #[serde(default)]
    pub cluster: String,
    /// Name of the user.
    #[serde(default)]
    pub user: String,
    /// Namespace where none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What this crate does not know.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, Value>,
}

/// What a user shows, its files read.
#[derive(Default)]
pub struct Credential {
    /// Client certificate and key.
    pub identity: Option<Identity>,
    /// Bearer token.
    pub token: Option<String>,
    /// Name and password.
    pub basic: Option<(String, String)>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential([hidden])")
    }
}

impl User {
    /// Reads what the user shows.
    pub fn credential(&self) -> Result<Credential> {
        let certificate = material(&self.client_certificate_data, &self.client_certificate)?;
        let key = material(&self.client_key_data, &self.client_key)?;
        let text = |name: &str| self.rest.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let basic = (text("username"), text("password"));
        Ok(Credential {
            identity: pair(certificate.as_deref(), key.as_deref())?,
            token: self.token()?,
            basic: (!basic.0.is_empty() || !basic.1.is_empty()).then_some(basic),
        })
    }

    fn token(&self) -> Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => Ok(material(&None, &Some(path.clone()))?.map(|t| t.trim().to_owned())),
            (None, None) => Ok(None),
        }
    }
}

/// A context with its files read.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// URL of the API server.
    pub server: String,
    /// Trusted authorities, PEM; `None` for the system's.
    pub authorities: Option<String>,
    /// Certificate, PEM.
    pub client_certificate: Option<String>,
    /// Key, PEM.
    pub client_key: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
}

impl Kubeconfig {
    fn with_user(server: &str, authorities_pem: &str, cluster: &str, user: &str, credential: User) -> Self {
        let place = Cluster {
            server: server.into(),
            certificate_authority_data: Some(STANDARD.encode(authorities_pem)),
            ..Cluster::default()
        };
        let context = Context { cluster: cluster.into(), user: user.into(), ..Context::default() };
        Kubeconfig {
            api_version: "v1".into(),
            kind: "Config".into(),
            clusters: vec![Named::new(cluster, place)],
            users: vec![Named::new(user, credential)],
            contexts: vec![Named::new(cluster, context)],
            current_context: cluster.into(),
            rest: serde_json::Map::new(),
        }
    }

    /// A file for a client certificate; cluster and context are called `orkd`.
    pub fn for_identity(server: &str, authorities_pem: &str, user: &str, identity: &Identity) -> Self {
        let credential = User {
            client_certificate_data: Some(STANDARD.encode(identity.certificate.to_pem())),
            client_key_data: Some(STANDARD.encode(identity.key.to_pem())),
            ..User::default()
        };
        Kubeconfig::with_user(server, authorities_pem, "orkd", user, credential)
    }

    /// A file for a bearer token.
    pub fn for_token(server: &str, authorities_pem: &str, user: &str, token: &str) -> Self {
        let credential = User { token: Some(token.into()), ..User::default() };
        Kubeconfig::with_user(server, authorities_pem, "orkd", user, credential)
    }

    /// A file for a client certificate whose certificate and key stay in files of their own, which may be renewed.
    pub fn for_files(server: &str, authorities_pem: &str, user: &str, certificate: &Path, key: &Path) -> Self {
        let credential = User {
            client_certificate: Some(certificate.to_owned()),
            client_key: Some(key.to_owned()),
            ..User::default()
        };
        Kubeconfig::with_user(server, authorities_pem, "orkd", user, credential)
    }

    /// Reads YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        serde_yaml::from_str(text).map_err(|e| Error::malformed("kubeconfig", e))
    }

    /// Reads a file; relative paths in it are made relative to its directory.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(files::at("read", path))?;
        let mut config = Kubeconfig::parse(&text)?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let fix = |p: &mut Option<PathBuf>| {
            if let Some(p) = p
                && p.is_relative()
            {
                *p = dir.join(&*p);
            }
        };
        for cluster in &mut config.clusters {
            fix(&mut cluster.value.certificate_authority);
        }
        for user in &mut config.users {
            fix(&mut user.value.client_certificate);
            fix(&mut user.value.client_key);
            fix(&mut user.value.token_file);
        }
        Ok(config)
    }

    /// The file as YAML.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self).map_err(|e| Error::malformed("kubeconfig", e))
    }

    /// Writes the file, 0600.
    pub fn save(&self, path: &Path) -> Result<()> {
        files::write(path, self.to_yaml()?.as_bytes(), Mode::Private, Durability::Replaceable)
    }

    /// The current context with its files read.
    pub fn resolve(&self) -> Result<Resolved> {
        let missing = |what: &str, name: &str| Error::Kubeconfig(format!("there is no {what} {name:?}"));
        let context = self
            .contexts
            .iter()
            .find(|c| c.name == self.current_context)
            .ok_or_else(|| missing("context", &self.current_context))?;
        let cluster = self
            .clusters
            .iter()
            .find(|c| c.name == context.value.cluster)
            .ok_or_else(|| missing("cluster", &context.value.cluster))?;
        let user = self
            .users
            .iter()
            .find(|c| c.name == context.value.user)
            .ok_or_else(|| missing("user", &context.value.user))?;
        let (cluster, user) = (&cluster.value, &user.value);
        Ok(Resolved {
            server: cluster.server.clone(),
            authorities: material(&cluster.certificate_authority_data, &cluster.certificate_authority)?,
            client_certificate: material(&user.client_certificate_data, &user.client_certificate)?,
            client_key: material(&user.client_key_data, &user.client_key)?,
            token: user.token()?,
        })
    }
}

impl Resolved {
    /// The client certificate and key, where there are any.
    pub fn identity(&self) -> Result<Option<Identity>> {
        pair(self.client_certificate.as_deref(), self.client_key.as_deref())
    }
}

fn pair(certificate: Option<&str>, key: Option<&str>) -> Result<Option<Identity>> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Identity::from_pem(certificate, key).map(Some),
        (None, None) => Ok(None),
        _ => Err(Error::Kubeconfig("certificate and key must be given together".into())),
    }
}

/// Data given in place wins over a file.
fn material(data: &Option<String>, file: &Option<PathBuf>) -> Result<Option<String>> {
    match (data, file) {
        (Some(data), _) if !data.is_empty() => {
            let bytes = STANDARD.decode(data).map_err(|e| Error::malformed("kubeconfig data", e))?;
            String::from_utf8(bytes).map(Some).map_err(|e| Error::malformed("kubeconfig data", e))
        }
        (_, Some(path)) => std::fs::read_to_string(path).map(Some).map_err(files::at("read", path)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Profile};

    #[test]
    fn a_written_file_is_read_back() {
        let now = jiff::Timestamp::now();
        let ca = Authority::create("ca", now).expect("ca");
        let id = ca.issue(&Profile::client("admin", &["system:masters"]), now).expect("id");
        let config = Kubeconfig::for_identity("https://127.0.0.1:6443", &ca.certificate().to_pem(), "admin", &id);
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("admin.kubeconfig");
        config.save(&path).expect("saved");
        let again = Kubeconfig::load(&path).expect("loaded");
        assert_eq!(again, config);
        let resolved = again.resolve().expect("resolved");
        assert_eq!(resolved.identity().expect("pair").expect("there").certificate, id.certificate);
        assert_eq!(resolved.authorities.as_deref(), Some(ca.certificate().to_pem().as_str()));
        let credential = again.users[0].value.credential().expect("read");
        assert_eq!(credential.identity.expect("there").certificate, id.certificate);
        assert_eq!((credential.token, credential.basic), (None, None));
    }

    #[test]
    fn foreign_files_keep_what_is_not_known() {
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\npreferences: {}\nclusters:\n- name: k\n  \
                    cluster: {server: 'https://h:1', insecure-skip-tls-verify: true}\nusers:\n- name: u\n  user: \
                    {token: t}\ncontexts:\n- name: c\n  context: {cluster: k, user: u}\n";
        let config = Kubeconfig::parse(text).expect("parsed");
        assert_eq!(config.resolve().expect("resolved").token.as_deref(), Some("t"));
        assert!(config.to_yaml().expect("yaml").contains("insecure-skip-tls-verify: true"));
        assert!(Kubeconfig::parse("clusters: 1").is_err());
        let error = Kubeconfig::parse("current-context: x").expect("parsed").resolve().expect_err("nothing there");
        assert_eq!(error.to_string(), "kubeconfig: there is no context \"x\"");
    }
}
