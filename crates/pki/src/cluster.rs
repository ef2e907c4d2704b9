//! What a server keeps on disk: authorities, keys and the certificates made from them.
//!
//! One directory, named after kubeadm's files: `ca.{crt,key}` signs servers and clients, `front-proxy-ca.*`
//! signs the aggregator, `sa.key` signs service account tokens. These are made once, synced to disk, and never
//! replaced by us. The leaf certificates are made from them and are made again when they are missing, damaged,
//! for other names, by another authority, or in the last third of their life.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::cert::{Certificate, Identity, Profile};
use crate::files::{self, Durability, Mode};
use crate::kubeconfig::Kubeconfig;
use crate::{Authority, Key, Result};

/// The common name of the certificate the aggregator shows to extension API servers.
pub const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
/// The user the API server is to kubelets.
pub const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
/// The group of that user, bound to the cluster role `system:kubelet-api-admin`.
pub const KUBELET_CLIENT_GROUP: &str = "orkd:kubelet-clients";

/// What the API server is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerNames {
    /// DNS domain of the cluster, such as `cluster.local`.
    pub cluster_domain: String,
    /// Address of the Service `default/kubernetes`.
    pub service_ips: Vec<IpAddr>,
    /// Addresses of this machine.
    pub node_ips: Vec<IpAddr>,
    /// Further names and addresses (`--tls-san`, the host name).
    pub extra: Vec<String>,
    /// How long its certificates are good for; a year if `None`.
    pub lifetime: Option<SignedDuration>,
}

impl ServerNames {
    /// A profile that lasts as long as the operator said.
    pub fn lasting(&self, profile: Profile) -> Profile {
        Profile { lifetime: self.lifetime.unwrap_or(profile.lifetime), ..profile }
    }

    /// The alternative names of the serving certificate.
    fn names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let mut dns: Vec<String> =
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"].map(str::to_owned).to_vec();
        if !self.cluster_domain.is_empty() {
            dns.push(format!("kubernetes.default.svc.{}", self.cluster_domain));
        }
        let mut ips: Vec<IpAddr> = vec![[127, 0, 0, 1].into(), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
        ips.extend(self.service_ips.iter().chain(&self.node_ips));
        for name in &self.extra {
            match name.parse::<IpAddr>() {
                Ok(ip) => ips.push(ip),
                Err(_) if !name.is_empty() => dns.push(name.to_ascii_lowercase()),
                Err(_) => {}
            }
        }
        dns.sort();
        dns.dedup();
        ips.sort();
        ips.dedup();
        (dns, ips)
    }
}

/// All of it, loaded.
#[derive(Debug)]
pub struct ClusterPki {
    dir: PathBuf,
    names: ServerNames,
    /// Signs servers' and clients' certificates.
    pub ca: Authority,
    /// Signs the aggregator's certificate.
    pub front_proxy_ca: Authority,
    /// Signs service account tokens.
    pub service_account_key: Key,
    /// What the API server shows to its clients.
    pub serving: Identity,
    /// What the API server shows to kubelets.
    pub kubelet_client: Identity,
    /// What the API server shows to extension API servers.
    pub front_proxy_client: Identity,
}

impl ClusterPki {
    /// Loads what is in `dir` and makes what is missing.
    pub fn load_or_create(dir: &Path, names: ServerNames, now: Timestamp) -> Result<Self> {
        files::private_dir(dir)?;
        let ca = authority(dir, "ca", "orkd-ca", now)?;
        let front_proxy_ca = authority(dir, "front-proxy-ca", "orkd-front-proxy-ca", now)?;
        let service_account_key = key(&dir.join("sa.key"))?;
        let (serving, kubelet_client, front_proxy_client) = leaves(dir, &ca, &front_proxy_ca, &names, now)?;
        let dir = dir.to_owned();
        Ok(ClusterPki {
            dir,
            names,
            ca,
            front_proxy_ca,
            service_account_key,
            serving,
            kubelet_client,
            front_proxy_client,
        })
    }

    /// Makes new leaf certificates where their time has come; `true` if any is new. To be called once a day or so,
    /// and at start by [`ClusterPki::load_or_create`].
    pub fn renew(&mut self, now: Timestamp) -> Result<bool> {
        let before = self.serials();
        (self.serving, self.kubelet_client, self.front_proxy_client) =
            leaves(&self.dir, &self.ca, &self.front_proxy_ca, &self.names, now)?;
        Ok(self.serials() != before)
    }

    /// How long from `now` it takes until the first of the leaf certificates needs renewal.
    pub fn renew_in(&self, now: Timestamp) -> Duration {
        let leaves = [&self.serving, &self.kubelet_client, &self.front_proxy_client];
        leaves.iter().map(|i| i.certificate.renew_in(now)).min().unwrap_or_default()
    }

    fn serials(&self) -> [String; 3] {
        [&self.serving, &self.kubelet_client, &self.front_proxy_client].map(|i| i.certificate.serial.clone())
    }

    /// The cluster CA's certificate, PEM.
    pub fn ca_pem(&self) -> String {
        self.ca.certificate().to_pem()
    }

    /// The hash that join tokens carry.
    pub fn ca_hash(&self) -> String {
        self.ca.certificate().public_key_hash()
    }

    /// TLS for the API server's socket.
    pub fn server_config(&self) -> Result<rustls::ServerConfig> {
        crate::tls::server_config(&self.serving, &[self.ca.certificate().clone()])
    }

    /// A kubeconfig with a new client certificate for a user.
    pub fn kubeconfig(&self, server: &str, user: &str, groups: &[&str], now: Timestamp) -> Result<Kubeconfig> {
        let identity = self.ca.issue(&self.names.lasting(Profile::client(user, groups)), now)?;
        Ok(Kubeconfig::for_identity(server, &self.ca_pem(), user, &identity))
    }

    /// Writes a kubeconfig for a user, unless the file there is still good: for this server and CA, and not due
    /// for renewal.
    pub fn write_kubeconfig(
        &self,
        path: &Path,
        server: &str,
        user: &str,
        groups: &[&str],
        now: Timestamp,
    ) -> Result<()> {
        if !self.kubeconfig_is_good(path, server, user, groups, now) {
            self.kubeconfig(server, user, groups, now)?.save(path)?;
        }
        Ok(())
    }

    fn kubeconfig_is_good(&self, path: &Path, server: &str, user: &str, groups: &[&str], now: Timestamp) -> bool {
        let Ok(resolved) = Kubeconfig::load(path).and_then(|c| c.resolve()) else { return false };
        let Ok(Some(identity)) = resolved.identity() else { return false };
        resolved.server == server
            && resolved.authorities.as_deref() == Some(self.ca_pem().as_str())
            && identity.certificate.common_name == user
            && identity.certificate.organizations == groups
            && !identity.certificate.needs_renewal(now)
    }
}

fn authority(dir: &Path, name: &str, common_name: &str, now: Timestamp) -> Result<Authority> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(certificate), Some(key)) = (files::read(&certificate)?, files::read(&key)?) {
        return Authority::from_pem(&certificate, &key);
    }
    let made = Authority::create(common_name, now)?;
    // The key first: a certificate without its key would be taken for damage by a person.
    files::write(&key, made.key().to_pem().as_bytes(), Mode::Private, Durability::Synced)?;
    files::write(&certificate, made.certificate().to_pem().as_bytes(), Mode::Public, Durability::Synced)?;
    Ok(made)
}

fn key(path: &Path) -> Result<Key> {
    if let Some(text) = files::read(path)? {
        return Key::from_pem(&text);
    }
    let made = Key::generate()?;
    files::write(path, made.to_pem().as_bytes(), Mode::Private, Durability::Synced)?;
    Ok(made)
}

fn leaves(
    dir: &Path,
    ca: &Authority,
    front_proxy_ca: &Authority,
    names: &ServerNames,
    now: Timestamp,
) -> Result<(Identity, Identity, Identity)> {
    let (dns, ips) = names.names();
    let serving = names.lasting(Profile::server("kube-apiserver", dns, ips));
    let serving = leaf(dir, "apiserver", ca, &serving, now)?;
    let kubelet = names.lasting(Profile::client(KUBELET_CLIENT, &[KUBELET_CLIENT_GROUP]));
    let kubelet_client = leaf(dir, "apiserver-kubelet-client", ca, &kubelet, now)?;
    let front = names.lasting(Profile::client(FRONT_PROXY_CLIENT, &[]));
    let front_proxy_client = leaf(dir, FRONT_PROXY_CLIENT, front_proxy_ca, &front, now)?;
    Ok((serving, kubelet_client, front_proxy_client))
}

/// Loads a leaf certificate, or makes it where [`is_good`] says no.
pub fn leaf(dir: &Path, name: &str, ca: &Authority, profile: &Profile, now: Timestamp) -> Result<Identity> {
    let (certificate, key) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if let (Some(c), Some(k)) = (files::read(&certificate)?, files::read(&key)?)
        && let Ok(identity) = Identity::from_pem(&c, &k)
        && is_good(&identity.certificate, ca, profile, now)
    {
        return Ok(identity);
    }
    let made = ca.issue(profile, now)?;
    files::write(&key, made.key.to_pem().as_bytes(), Mode::Private, Durability::Replaceable)?;
    files::write(&certificate, made.certificate.to_pem().as_bytes(), Mode::Public, Durability::Replaceable)?;
    Ok(made)
}

fn is_good(certificate: &Certificate, ca: &Authority, profile: &Profile, now: Timestamp) -> bool {
    let (mut dns, mut ips) = (certificate.dns.clone(), certificate.ips.clone());
    dns.sort();
    ips.sort();
    certificate.common_name == profile.common_name
        && certificate.organizations == profile.organizations
        && dns == profile.dns
        && ips == profile.ips
        && !certificate.needs_renewal(now)
        && certificate.is_signed_by(ca.certificate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_finds_everything_and_new_names_make_a_new_serving_certificate() {
        let dir = tempfile::tempdir().expect("dir");
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let names = ServerNames {
            cluster_domain: "cluster.local".into(),
            service_ips: vec![[10, 43, 0, 1].into()],
            ..ServerNames::default()
        };
        let started = std::time::Instant::now();
        let first = ClusterPki::load_or_create(dir.path(), names.clone(), now).expect("created");
        eprintln!("made in {:?}", started.elapsed());
        assert!(first.serving.certificate.dns.contains(&"kubernetes.default.svc.cluster.local".to_owned()));
        let second = ClusterPki::load_or_create(dir.path(), names.clone(), now).expect("loaded");
        assert_eq!(first.serials(), second.serials());
        assert_eq!(first.ca_hash(), second.ca_hash());
        assert_eq!(first.service_account_key.public_der(), second.service_account_key.public_der());

        let more = ServerNames { extra: vec!["example.org".into()], ..names.clone() };
        let mut third = ClusterPki::load_or_create(dir.path(), more, now).expect("loaded");
        assert_ne!(first.serving.certificate.serial, third.serving.certificate.serial);
        assert_eq!(first.kubelet_client.certificate.serial, third.kubelet_client.certificate.serial);

        assert!(!third.renew(now).expect("renew"));
        assert!(third.renew(now + SignedDuration::from_hours(24 * 300)).expect("renew"));

        std::fs::write(dir.path().join("apiserver.crt"), "").expect("damage");
        ClusterPki::load_or_create(dir.path(), names, now).expect("repaired");
    }

    #[test]
    fn short_lives_are_renewed_in_time() {
        let dir = tempfile::tempdir().expect("dir");
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let names = ServerNames { lifetime: Some(SignedDuration::from_secs(60)), ..ServerNames::default() };
        let pki = ClusterPki::load_or_create(dir.path(), names, now).expect("created");
        let wait = pki.renew_in(now);
        assert!((30..45).contains(&wait.as_secs()), "{wait:?}");
        for identity in [&pki.serving, &pki.kubelet_client, &pki.front_proxy_client] {
            assert!(!identity.certificate.needs_renewal(now));
            assert!(identity.certificate.needs_renewal(now + wait));
            assert!(identity.certificate.is_valid_at(now + wait));
        }
        assert_eq!(pki.renew_in(now + Duration::from_secs(100)), Duration::ZERO);
    }

    #[test]
    fn kubeconfigs_are_left_alone_while_they_are_good() {
        let dir = tempfile::tempdir().expect("dir");
        let now = Timestamp::now();
        let pki = ClusterPki::load_or_create(dir.path(), ServerNames::default(), now).expect("created");
        let path = dir.path().join("admin.kubeconfig");
        let write = |server: &str| {
            pki.write_kubeconfig(&path, server, "admin", &["system:masters"], now).expect("written");
            std::fs::read_to_string(&path).expect("read")
        };
        let first = write("https://a");
        assert_eq!(first, write("https://a"));
        assert_ne!(first, write("https://b"));
    }
}
