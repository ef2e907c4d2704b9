//! `orkd token`: the tokens with which machines join.
//!
//! A token is a Secret `kube-system/bootstrap-token-ID` as upstream defines it, so that `kubeadm token` and kubectl
//! see the same; what is printed adds the hash of the cluster's authority ([`orkd_pki::token`]).

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use orkd_pki::kubeconfig::Kubeconfig;
use orkd_pki::token::{BootstrapToken, JoinToken};
use orkd_reconcile::{Api, ListOptions, Resource};
use serde_json::{Value, json};

use crate::cli::{TokenArgs, TokenCommand};
use crate::client;

const SECRETS: Resource = Resource::new("", "v1", "secrets", "Secret", true);
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Runs the command.
///
/// # Errors
/// The cluster refuses or is not there.
pub async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let api = Api::new(client::from_kubeconfig(&args.kubeconfig).await?, "orkd-token");
    match args.command {
        TokenCommand::Create { ttl, description, print_join_command } => {
            let resolved = Kubeconfig::load(&args.kubeconfig)?.resolve()?;
            let token = BootstrapToken::generate();
            let expires = expiry(&ttl, Timestamp::now())?;
            let secret = secret(&token, &description, expires);
            api.create::<Value>(&SECRETS.collection("kube-system"), &secret).await.context("cannot make the token")?;
            let ca = orkd_pki::cert::Certificate::from_pem(resolved.authorities.as_deref().unwrap_or_default())
                .context("the kubeconfig names no certificate authority")?;
            let token = JoinToken { ca_hash: ca.public_key_hash(), bootstrap: token };
            if print_join_command {
                let server = advertised(&api).await.unwrap_or(resolved.server);
                println!("sudo orkd agent --join {server} --token {token}");
            } else {
                println!("{token}");
            }
        }
        TokenCommand::List => {
            let options = ListOptions { fields: format!("type={TYPE}"), ..ListOptions::default() };
            let list = api.list_all::<Value>(&SECRETS.collection("kube-system"), &options).await?;
            println!("{:<8} {:<22} {:<24} DESCRIPTION", "ID", "EXPIRES", "USAGES");
            for secret in list.items {
                let field = |name: &str| decoded(&secret, name);
                let usages: Vec<&str> = ["authentication", "signing"]
                    .into_iter()
                    .filter(|u| field(&format!("usage-bootstrap-{u}")) == "true")
                    .collect();
                let expires = field("expiration");
                let expires = if expires.is_empty() { "never" } else { expires.as_str() };
                println!("{:<8} {expires:<22} {:<24} {}", field("token-id"), usages.join(","), field("description"));
            }
        }
        TokenCommand::Delete { id } => {
            let id = id.split('.').next().unwrap_or_default();
            let target = SECRETS.at("kube-system", &format!("bootstrap-token-{id}"));
            api.delete(&target, &Default::default()).await.with_context(|| format!("cannot delete token {id}"))?;
            println!("token {id} deleted");
        }
    }
    Ok(())
}

/// The URL at which other machines reach the server, as the cluster says (`kube-public/cluster-info`): the kubeconfig's
/// may be good on this machine only.
async fn advertised(api: &Api) -> Option<String> {
    let map = Resource::new("", "v1", "configmaps", "ConfigMap", true).at("kube-public", "cluster-info");
    let map: Value = api.get(&map).await.ok()?;
    let info = Kubeconfig::parse(map["data"]["kubeconfig"].as_str()?).ok()?;
    Some(info.clusters.first()?.value.server.clone()).filter(|s| !s.is_empty())
}

/// When a token made now ends; `None` for never.
fn expiry(ttl: &str, now: Timestamp) -> anyhow::Result<Option<Timestamp>> {
    if ttl == "0" {
        return Ok(None);
    }
    let nanoseconds = orkd_api::time::parse_duration(ttl)
        .map_err(|e| anyhow::anyhow!("--ttl {ttl}: {e}; expected a duration such as 24h, or 0"))?;
    ensure!(nanoseconds > 0, "--ttl {ttl}: must be positive, or 0 for ever");
    Ok(Some(now.checked_add(jiff::SignedDuration::from_nanos(nanoseconds)).context("--ttl is too long")?))
}

fn secret(token: &BootstrapToken, description: &str, expires: Option<Timestamp>) -> Value {
    let mut data = json!({
        "token-id": token.id,
        "token-secret": token.secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:orkd:default-node-token",
    });
    if !description.is_empty() {
        data["description"] = json!(description);
    }
    if let Some(at) = expires {
        data["expiration"] = json!(orkd_reconcile::time(at));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": token.secret_name(), "namespace": "kube-system"},
        "type": TYPE,
        "stringData": data,
    })
}

fn decoded(secret: &Value, field: &str) -> String {
    let text = secret["data"][field].as_str().unwrap_or_default();
    BASE64_STANDARD.decode(text).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_times() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(expiry("0", now).expect("for ever"), None);
        assert_eq!(expiry("1h30m", now).expect("a duration"), Some("1970-01-01T01:30:00Z".parse().expect("a time")));
        assert!(expiry("soon", now).is_err());
        assert!(expiry("-1h", now).is_err());
    }
}
