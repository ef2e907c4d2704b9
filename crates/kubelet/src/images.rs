//! Making sure that a container's image is on the node: policies, credentials, back-off, and upstream's texts.
//! Follows `pkg/kubelet/images/image_manager.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use orkd_cri::{Runtime, v1};
use orkd_reconcile::EventType;
use parking_lot::Mutex;

use crate::pod;
use crate::retry::Retries;
use crate::status::generate::Waiting;

/// An image that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id.
    pub id: String,
    /// The uid its processes have.
    pub uid: Option<i64>,
    /// The user's name, if the image names one.
    pub user: String,
}

/// Pulls images, with a memory of failures.
pub struct Images {
    runtime: Arc<dyn Runtime>,
    retries: Mutex<Retries>,
    failures: Mutex<HashMap<String, String>>,
}

/// Records an event of a container: type, reason, message.
pub type Report<'a> = &'a (dyn Fn(EventType, &str, String) + Sync);

impl Images {
    /// Images of a runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self { runtime, retries: Mutex::default(), failures: Mutex::default() }
    }

    /// How long the container's pull still has to wait.
    pub fn waiting(&self, pod: &Pod, container: &Container) -> Option<std::time::Duration> {
        let image = with_tag(container.image.as_deref().unwrap_or_default()).ok()?;
        let (key, now) = (format!("{}_{image}", pod::uid(pod)), Timestamp::now());
        let retries = self.retries.lock();
        let updated = retries.updated(&key)?;
        retries.waiting(&key, updated, now)
    }

    /// The image, pulled if it must be. The error is the waiting state of the container.
    pub async fn ensure(
        &self,
        pod: &Pod,
        container: &Container,
        secrets: &[Secret],
        sandbox: &v1::PodSandboxConfig,
        report: Report<'_>,
    ) -> Result<Image, Waiting> {
        let asked = container.image.as_deref().unwrap_or_default();
        let failure = |reason: &str, message: String| Waiting { reason: reason.to_owned(), message };
        let image = with_tag(asked).map_err(|why| {
            let message = format!("Failed to apply default image tag {asked:?}: {why}");
            report(EventType::Warning, "InspectFailed", message.clone());
            failure("InvalidImageName", message)
        })?;
        let spec = v1::ImageSpec { image: image.clone(), ..v1::ImageSpec::default() };
        let present = self.runtime.image_status(spec.clone()).await.map_err(|e| {
            let message = format!("Failed to inspect image {image:?}: {e}");
            report(EventType::Warning, "InspectFailed", message.clone());
            failure("ImageInspectError", message)
        })?;
        let policy = container.image_pull_policy.as_deref().unwrap_or_else(|| default_policy(&image));
        match (policy, present) {
            ("Always", _) | ("IfNotPresent", None) => {}
            (_, Some(found)) => {
                let text =
                    format!("Container image {asked:?} already present on machine and can be accessed by the pod");
                report(EventType::Normal, "Pulled", text);
                return Ok(from_cri(&found));
            }
            (_, None) => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                report(EventType::Warning, "ErrImageNeverPull", message.clone());
                return Err(failure("ErrImageNeverPull", message));
            }
        }
        let key = format!("{}_{image}", pod::uid(pod));
        if self.waiting(pod, container).is_some() {
            let message = format!("Back-off pulling image {asked:?}");
            report(EventType::Normal, "BackOff", message.clone());
            let before = self.failures.lock().get(&key).cloned();
            let message = before.map_or(message.clone(), |b| format!("{message}: ErrImagePull: {b}"));
            return Err(failure("ImagePullBackOff", message));
        }
        report(EventType::Normal, "Pulling", format!("Pulling image {asked:?}"));
        let started = Instant::now();
        let mut outcome = Err(orkd_cri::Error::new(orkd_cri::Code::Unknown, "no credentials were tried"));
        for auth in credentials(secrets, &image) {
            outcome = self.runtime.pull_image(spec.clone(), auth, Some(sandbox.clone())).await;
            if outcome.is_ok() {
                break;
            }
        }
        match outcome {
            Ok(id) => {
                self.retries.lock().forget(&key);
                self.failures.lock().remove(&key);
                let pulled = v1::ImageSpec { image: id.clone(), ..v1::ImageSpec::default() };
                let found = self.runtime.image_status(pulled).await.ok().flatten();
                let took = started.elapsed().as_secs_f64();
                let size = found.as_ref().map_or(0, |i| i.size);
                let text = format!(
                    "Successfully pulled image {asked:?} in {took:.3}s ({took:.3}s including waiting). \
                     Image size: {size} bytes."
                );
                report(EventType::Normal, "Pulled", text);
                Ok(found.map_or_else(|| Image { id, ..Image::default() }, |i| from_cri(&i)))
            }
            Err(error) => {
                let now = Timestamp::now();
                {
                    let mut retries = self.retries.lock();
                    let since = retries.updated(&key).unwrap_or(now);
                    retries.lengthen(&key, since.max(now), now);
                }
                self.failures.lock().insert(key, error.to_string());
                report(EventType::Warning, "Failed", format!("Failed to pull image {asked:?}: {error}"));
                Err(failure("ErrImagePull", error.to_string()))
            }
        }
    }
}

fn from_cri(image: &v1::Image) -> Image {
    Image {
        id: image.id.clone(),
        uid: image.uid.map(|u| u.value).or_else(|| image.username.is_empty().then_some(0)),
        user: image.username.clone(),
    }
}

/// `Always` for `:latest`, otherwise `IfNotPresent`.
fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") && !image.contains('@') { "Always" } else { "IfNotPresent" }
}

/// The reference with `:latest` where neither tag nor digest is given.
pub fn with_tag(image: &str) -> Result<String, String> {
    let invalid = || format!("couldn't parse image name {image:?}: invalid reference format");
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) if digest.contains(':') => (name, Some(digest)),
        Some(_) => return Err(invalid()),
        None => (image, None),
    };
    let after_host = name.rfind('/').map_or(0, |i| i + 1);
    let (repository, tag) = match name.get(after_host..).and_then(|last| last.find(':')) {
        Some(at) => (&name[..after_host + at], Some(&name[after_host + at + 1..])),
        None => (name, None),
    };
    let ok = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:[]".contains(c));
    if !ok(repository) || tag.is_some_and(|t| !ok(t) || t.len() > 128) || repository.contains("//") {
        return Err(invalid());
    }
    let (host, path) = repository.split_once('/').unwrap_or(("", repository));
    let has_host = host.contains(['.', ':']) || host == "localhost";
    let path = if has_host { path } else { repository };
    if path.chars().any(|c| c.is_ascii_uppercase()) {
        return Err(format!(
            "couldn't parse image name {image:?}: invalid reference format: repository name ({path}) must be lowercase"
        ));
    }
    if path.is_empty() || path.ends_with('/') || path.starts_with('/') {
        return Err(invalid());
    }
    match (tag, digest) {
        (None, None) => Ok(format!("{image}:latest")),
        _ => Ok(image.to_owned()),
    }
}

/// The registry and path of a reference, as credentials name them.
fn registry_path(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let name = match name.get(slash..).and_then(|l| l.find(':')) {
        Some(at) => &name[..slash + at],
        None => name,
    };
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    }
}

/// Credentials for an image, the most specific first; one `None` if there are none.
fn credentials(secrets: &[Secret], image: &str) -> Vec<Option<v1::AuthConfig>> {
    let path = registry_path(image);
    let mut found: Vec<(usize, v1::AuthConfig)> = Vec::new();
    for secret in secrets {
        let data = secret.data.as_ref();
        let new = data.and_then(|d| d.get(".dockerconfigjson"));
        let parsed = match new {
            Some(bytes) => {
                serde_json::from_slice::<serde_json::Value>(&bytes.0).ok().and_then(|v| v.get("auths").cloned())
            }
            None => data.and_then(|d| d.get(".dockercfg")).and_then(|b| serde_json::from_slice(&b.0).ok()),
        };
        for (key, entry) in parsed.as_ref().and_then(|v| v.as_object()).into_iter().flatten() {
            let bare = key.trim_start_matches("https://").trim_start_matches("http://");
            let bare = bare.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
            let bare = if bare == "index.docker.io" { "docker.io" } else { bare };
            if path != bare && !path.starts_with(&format!("{bare}/")) {
                continue;
            }
            let text = |name: &str| entry.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
            let (mut username, mut password) = (text("username"), text("password"));
            if let Some((u, p)) = STANDARD
                .decode(text("auth"))
                .ok()
                .and_then(|b| String::from_utf8(b).ok())
                .and_then(|t| t.split_once(':').map(|(u, p)| (u.to_owned(), p.trim_end_matches('\0').to_owned())))
            {
                (username, password) = (u, p);
            }
            let auth = v1::AuthConfig {
                username,
                password,
                identity_token: text("identitytoken"),
                registry_token: text("registrytoken"),
                ..v1::AuthConfig::default()
            };
            found.push((bare.len(), auth));
        }
    }
    found.sort_by_key(|(len, _)| std::cmp::Reverse(*len));
    match found.is_empty() {
        true => vec![None],
        false => found.into_iter().map(|(_, auth)| Some(auth)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references() {
        let check =
            |image: &str, expected: Option<&str>| assert_eq!(with_tag(image).ok().as_deref(), expected, "{image}");
        check("nginx", Some("nginx:latest"));
        check("nginx:1", Some("nginx:1"));
        check("localhost:5000/a/b", Some("localhost:5000/a/b:latest"));
        check("a@sha256:00", Some("a@sha256:00"));
        check("Nginx", None);
        check("a b", None);
        check("", None);
        check("a/", None);
    }

    #[test]
    fn secrets_are_chosen_by_registry() {
        let config = json!({"auths": {
            "r.example": {"auth": STANDARD.encode("u:p")},
            "https://r.example/team/": {"username": "x", "password": "y"},
            "other.example": {"username": "z"},
        }});
        let secret: Secret =
            serde_json::from_value(json!({"data": {".dockerconfigjson": STANDARD.encode(config.to_string())}}))
                .unwrap_or_default();
        let users = |image: &str| -> Vec<String> {
            let found = credentials(std::slice::from_ref(&secret), image);
            found.into_iter().map(|a| a.map(|a| a.username).unwrap_or_default()).collect()
        };
        assert_eq!(users("r.example/team/app:1"), ["x", "u"]);
        assert_eq!(users("r.example/app"), ["u"]);
        assert_eq!(users("nginx"), [""]);
    }
}
