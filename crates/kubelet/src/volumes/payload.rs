//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume,
};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;

use super::atomic::{FileData, Payload};
use crate::env::{self, Facts};
use crate::objects::Objects;
use crate::pod;

/// Tokens that are good for a while: asked for again after four fifths of their life, or a day.
#[derive(Default)]
pub struct Tokens(Mutex<HashMap<(String, String, String, i64), Token>>);

struct Token {
    value: String,
    refresh_at: Timestamp,
}

impl Tokens {
    /// Forgets the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.0.lock().retain(|key, _| key.0 != uid);
    }

    async fn get(
        &self,
        pod: &Pod,
        projection: &ServiceAccountTokenProjection,
        objects: &dyn Objects,
    ) -> Result<String, String> {
        let seconds = projection.expiration_seconds.unwrap_or(3600).max(1);
        let audience = projection.audience.clone().unwrap_or_default();
        let account = pod::spec(pod).service_account_name.clone().filter(|n| !n.is_empty());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let key = (pod::uid(pod).to_owned(), account.clone(), audience.clone(), seconds);
        let now = Timestamp::now();
        if let Some(token) = self.0.lock().get(&key)
            && now < token.refresh_at
        {
            return Ok(token.value.clone());
        }
        let asked = Some(audience.as_str()).filter(|a| !a.is_empty());
        let lifetime = Duration::from_secs(seconds.unsigned_abs());
        let (value, expires) = objects.token(pod, &account, asked, lifetime).await?;
        let life = expires.as_second() - now.as_second();
        let refresh = (life * 4 / 5).clamp(1, 24 * 3600);
        let refresh_at = Timestamp::from_second(now.as_second() + refresh).unwrap_or(now);
        self.0.lock().insert(key, Token { value: value.clone(), refresh_at });
        Ok(value)
    }
}

/// Keys and their bytes of a ConfigMap or Secret.
type Data = Vec<(String, Vec<u8>)>;

/// Puts keys at their paths. `optional` lets keys be absent.
fn place_items(
    payload: &mut Payload,
    data: &Data,
    items: Option<&Vec<KeyToPath>>,
    default_mode: i32,
    optional: bool,
    what: &str,
) -> Result<(), String> {
    let mode = |mode: Option<i32>| mode.unwrap_or(default_mode).cast_unsigned() & 0o777;
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        for (key, value) in data {
            payload.insert(key.clone(), FileData { mode: mode(None), data: value.clone() });
        }
        return Ok(());
    };
    for item in items {
        match data.iter().find(|(key, _)| *key == item.key) {
            Some((_, value)) => {
                payload.insert(item.path.clone(), FileData { mode: mode(item.mode), data: value.clone() });
            }
            None if optional => {}
            None => return Err(format!("{what} references non-existent config key: {}", item.key)),
        }
    }
    Ok(())
}

async fn config_map(
    payload: &mut Payload,
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    let Some(map) = objects.config_map(namespace, name).await? else {
        return if optional { Ok(()) } else { Err(format!("configmap \"{name}\" not found")) };
    };
    let text = map.data.into_iter().flatten().map(|(k, v)| (k, v.into_bytes()));
    let data: Data = text.chain(map.binary_data.into_iter().flatten().map(|(k, v)| (k, v.0))).collect();
    place_items(payload, &data, items, mode, optional, "configmap")
}

async fn secret(
    payload: &mut Payload,
    objects: &dyn Objects,
    namespace: &str,
    name: &str,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<(), String> {
    let Some(secret) = objects.secret(namespace, name).await? else {
        return if optional { Ok(()) } else { Err(format!("secret \"{name}\" not found")) };
    };
    let data: Data = secret.data.into_iter().flatten().map(|(k, v)| (k, v.0)).collect();
    place_items(payload, &data, items, mode, optional, "secret")
}

fn downward(
    payload: &mut Payload,
    pod: &Pod,
    facts: &Facts,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    mode: i32,
) -> Result<(), String> {
    for item in items.into_iter().flatten() {
        let text = if let Some(reference) = &item.field_ref {
            env::field(pod, facts, &reference.field_path)?
        } else if let Some(selector) = &item.resource_field_ref {
            let named = selector.container_name.as_deref().unwrap_or_default();
            let (_, container) =
                pod::find_container(&pod::spec(pod), named).ok_or_else(|| format!("container {named} not found"))?;
            env::resource(&container, selector, facts)?
        } else {
            continue;
        };
        let mode = item.mode.unwrap_or(mode).cast_unsigned() & 0o777;
        payload.insert(item.path.clone(), FileData { mode, data: text.into_bytes() });
    }
    Ok(())
}

async fn projected(
    payload: &mut Payload,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    facts: &Facts,
    objects: &dyn Objects,
    tokens: &Tokens,
) -> Result<(), String> {
    let namespace = pod::namespace(pod);
    let mode = source.default_mode.unwrap_or(0o644);
    let mut errors = Vec::new();
    for projection in source.sources.iter().flatten() {
        let outcome = if let Some(s) = &projection.config_map {
            config_map(payload, objects, namespace, &s.name, s.items.as_ref(), mode, s.optional == Some(true)).await
        } else if let Some(s) = &projection.secret {
            secret(payload, objects, namespace, &s.name, s.items.as_ref(), mode, s.optional == Some(true)).await
        } else if let Some(s) = &projection.downward_api {
            downward(payload, pod, facts, s.items.as_ref(), mode)
        } else if let Some(s) = &projection.service_account_token {
            tokens.get(pod, s, objects).await.map(|token| {
                // Readable by the pod's one user, or by its group; by everybody otherwise.
                let owned = pod::spec(pod).security_context.as_ref().is_some_and(|c| c.fs_group.is_some());
                let mode = if owned { 0o600 } else { mode.cast_unsigned() & 0o777 };
                payload.insert(s.path.clone(), FileData { mode, data: token.into_bytes() });
            })
        } else {
            Err("this kind of projection is not supported".to_owned())
        };
        errors.extend(outcome.err());
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.swap_remove(0)),
        _ => Err(format!("[{}]", errors.join(", "))),
    }
}

/// The files of a volume.
pub async fn collect(
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    objects: &dyn Objects,
    tokens: &Tokens,
) -> Result<Payload, String> {
    let mut payload = Payload::new();
    let namespace = pod::namespace(pod);
    if let Some(s) = &volume.config_map {
        let (mode, optional) = (s.default_mode.unwrap_or(0o644), s.optional == Some(true));
        config_map(&mut payload, objects, namespace, &s.name, s.items.as_ref(), mode, optional).await?;
    } else if let Some(s) = &volume.secret {
        let (mode, optional) = (s.default_mode.unwrap_or(0o644), s.optional == Some(true));
        let name = s.secret_name.as_deref().unwrap_or_default();
        secret(&mut payload, objects, namespace, name, s.items.as_ref(), mode, optional).await?;
    } else if let Some(s) = &volume.downward_api {
        downward(&mut payload, pod, facts, s.items.as_ref(), s.default_mode.unwrap_or(0o644))?;
    } else if let Some(s) = &volume.projected {
        projected(&mut payload, pod, s, facts, objects, tokens).await?;
    }
    Ok(payload)
}
