//! Who the API server is to a webhook: the users of the kubeconfig that the configuration of a plugin names
//! (`admission/plugin/webhook/config`, `util/webhook/authentication.go`).
//!
//! The users of that file are named by the servers they are for: `hook.ns.svc`, `*.example.com`, `10.0.0.1:8443`, `*`.

use std::path::Path;

use orkd_pki::kubeconfig::{Credential, Kubeconfig, User};
use serde_json::Value;

/// Credentials for webhooks.
#[derive(Debug, Default)]
pub struct Credentials(Option<Kubeconfig>);

/// The kinds of configuration by their versions.
const KINDS: [(&str, &str); 2] = [
    ("apiserver.config.k8s.io/v1", "WebhookAdmissionConfiguration"),
    ("apiserver.config.k8s.io/v1alpha1", "WebhookAdmission"),
];

/// What a user of a kubeconfig may say that is not done here.
const UNSUPPORTED: [&str; 6] = ["exec", "auth-provider", "as", "as-uid", "as-groups", "as-user-extra"];

impl Credentials {
    /// Reads the configuration of a plugin; null for none.
    pub fn load(config: &Value) -> Result<Credentials, String> {
        if config.is_null() {
            return Ok(Credentials::default());
        }
        let text = |field: &str| config[field].as_str().unwrap_or_default();
        let (api_version, kind, file) = (text("apiVersion"), text("kind"), text("kubeConfigFile"));
        if !KINDS.contains(&(api_version, kind)) {
            return Err(format!("no kind {kind:?} is registered for version {api_version:?}"));
        }
        if !Path::new(file).is_absolute() {
            return Err(format!("kubeConfigFile: Invalid value: {file:?}: must be an absolute file path"));
        }
        let config = Kubeconfig::load(Path::new(file)).map_err(|e| format!("{file}: {e}"))?;
        Credentials::of(config).map_err(|e| format!("{file}: {e}"))
    }

    fn of(config: Kubeconfig) -> Result<Credentials, String> {
        for user in &config.users {
            if let Some(field) = UNSUPPORTED.iter().find(|f| user.value.rest.contains_key(**f)) {
                return Err(format!("users[{}].{field} is not supported", user.name));
            }
        }
        Ok(Credentials(Some(config)))
    }

    /// The credential for a server, its files read anew; nothing where the API server is nobody there.
    pub fn to(&self, host: &str, port: u16) -> Result<Option<Credential>, String> {
        let user = self.0.as_ref().and_then(|config| user(config, host, port));
        user.map(User::credential).transpose().map_err(|e| e.to_string())
    }
}

/// The user for a server: named by its name and port, by its domain, the same without the usual port, by `*`, and in the
/// end that of the current context.
fn user<'c>(config: &'c Kubeconfig, host: &str, port: u16) -> Option<&'c User> {
    let named = |name: &str| config.users.iter().find(|u| u.name == name).map(|u| &u.value);
    let for_target = |target: &str| {
        let domains = target.match_indices('.').map(|(dot, _)| format!("*{}", &target[dot..]));
        named(target).or_else(|| domains.into_iter().find_map(|domain| named(&domain)))
    };
    let with_port = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let current = || {
        let context = config.contexts.iter().find(|c| c.name == config.current_context)?;
        named(&context.value.user)
    };
    for_target(&with_port)
        .or_else(|| (port == 443).then(|| for_target(host)).flatten())
        .or_else(|| named("*"))
        .or_else(current)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kubeconfig(users: &[&str], current: &str) -> Kubeconfig {
        let users: Vec<String> = users.iter().map(|u| format!("{{name: '{u}', user: {{token: 'of {u}'}}}}")).collect();
        let text = format!(
            "users: [{}]\ncontexts: [{{name: c, context: {{user: '{current}'}}}}]\ncurrent-context: c\n",
            users.join(", ")
        );
        Kubeconfig::parse(&text).expect("a kubeconfig")
    }

    #[test]
    fn users_are_found_by_the_server_they_are_for() {
        let all = ["hook.ns.svc:8443", "hook.ns.svc", "*.ns.svc", "*.svc:8443", "*.svc", "*", "me", "::1"];
        let check = |users: &[&str], current: &str, host: &str, port: u16, expected: Option<&str>| {
            let credentials = Credentials::of(kubeconfig(users, current)).expect("good");
            let got = credentials.to(host, port).expect("read").and_then(|c| c.token);
            assert_eq!(got, expected.map(|u| format!("of {u}")), "{users:?} {host}:{port}");
        };
        check(&all, "me", "hook.ns.svc", 8443, Some("hook.ns.svc:8443"));
        check(&all, "me", "hook.ns.svc", 443, Some("hook.ns.svc"));
        check(&all, "me", "other.ns.svc", 443, Some("*.ns.svc"));
        check(&all, "me", "other.ns.svc", 8443, Some("*.svc:8443"));
        check(&all, "me", "other.ns.svc", 9443, Some("*"));
        check(&all, "me", "x.example.com", 443, Some("*"));
        check(&["*.ns.svc", "me"], "me", "x.example.com", 443, Some("me"));
        check(&["me"], "nobody", "x.example.com", 443, None);
        check(&all[7..], "", "::1", 443, Some("::1"));
        assert!(Credentials::default().to("h", 443).expect("read").is_none());
    }

    #[test]
    fn configurations_are_read() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("hooks.kubeconfig");
        std::fs::write(&file, kubeconfig(&["*"], "").to_yaml().expect("yaml")).expect("written");
        let config = |version: &str, kind: &str, file: &str| json!({"apiVersion": format!("apiserver.config.k8s.io/{version}"), "kind": kind, "kubeConfigFile": file});
        let file = file.display().to_string();
        for (version, kind) in [("v1", "WebhookAdmissionConfiguration"), ("v1alpha1", "WebhookAdmission")] {
            let credentials = Credentials::load(&config(version, kind, &file)).expect("good");
            assert_eq!(credentials.to("h", 1).expect("read").and_then(|c| c.token).as_deref(), Some("of *"));
        }
        assert!(Credentials::load(&Value::Null).expect("none").0.is_none());
        let refused = |config: Value| Credentials::load(&config).expect_err("refused");
        assert_eq!(
            refused(config("v1", "WebhookAdmission", &file)),
            "no kind \"WebhookAdmission\" is registered for version \"apiserver.config.k8s.io/v1\""
        );
        assert_eq!(
            refused(config("v1", "WebhookAdmissionConfiguration", "x")),
            "kubeConfigFile: Invalid value: \"x\": must be an absolute file path"
        );
        assert!(refused(config("v1", "WebhookAdmissionConfiguration", "/nope")).starts_with("/nope: "));
        let exec = Kubeconfig::parse("users: [{name: u, user: {exec: {command: x}}}]").expect("parsed");
        assert_eq!(Credentials::of(exec).expect_err("refused"), "users[u].exec is not supported");
    }
}
