//! Limits how many events are written: for the whole server, each namespace, each user, or each source and object
//! (`plugin/pkg/admission/eventratelimit`).

use std::collections::{HashMap, VecDeque};

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_api::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use super::{Operation, Plugin, Request, items};

/// How many keys of one limit are remembered where nothing is configured.
const CACHE_SIZE: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Server,
    Namespace,
    User,
    SourceAndObject,
}

/// One limit: a bucket for each key.
struct Limit {
    by: By,
    per_second: f64,
    burst: f64,
    size: usize,
    buckets: Mutex<Buckets>,
}

#[derive(Default)]
struct Buckets {
    tokens: HashMap<String, (f64, Timestamp)>,
    /// Keys, the one that came first in front: it is the first to be forgotten.
    order: VecDeque<String>,
}

/// The plugin.
pub struct EventRateLimit(Vec<Limit>);

impl EventRateLimit {
    /// With the limits of a configuration; without one nothing is limited.
    pub fn new(config: &Value) -> Result<Self, String> {
        items(&config["limits"]).iter().map(Limit::parse).collect::<Result<_, _>>().map(EventRateLimit)
    }
}

impl Limit {
    fn parse(value: &Value) -> Result<Self, String> {
        let by = match value["type"].as_str().unwrap_or_default() {
            "Server" => By::Server,
            "Namespace" => By::Namespace,
            "User" => By::User,
            "SourceAndObject" => By::SourceAndObject,
            other => return Err(format!("EventRateLimit: limits: unsupported type {other:?}")),
        };
        let number = |field: &str| value[field].as_f64().filter(|n| *n > 0.0);
        let needed = |field: &str| number(field).ok_or(format!("EventRateLimit: limits: {field} must be positive"));
        let size = value["cacheSize"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        Ok(Limit {
            by,
            per_second: needed("qps")?,
            burst: needed("burst")?,
            size: if by == By::Server {
                1
            } else if size == 0 {
                CACHE_SIZE
            } else {
                size
            },
            buckets: Mutex::default(),
        })
    }

    fn key(&self, request: &Request<'_>, event: &Value) -> String {
        match self.by {
            By::Server => String::new(),
            By::Namespace => request.namespace.to_owned(),
            By::User => request.user.name.clone(),
            By::SourceAndObject => {
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                let (source, about) = (&event["source"], &event["involvedObject"]);
                let about = if about.is_object() { about } else { &event["regarding"] };
                let parts = ["kind", "namespace", "name", "uid", "apiVersion"].map(|f| text(&about[f]));
                [text(&source["component"]), text(&source["host"]), parts.concat()].concat()
            }
        }
    }

    /// Takes a token of a key.
    fn take(&self, key: String, now: Timestamp) -> bool {
        let mut buckets = self.buckets.lock();
        if !buckets.tokens.contains_key(&key) {
            if buckets.tokens.len() >= self.size
                && let Some(oldest) = buckets.order.pop_front()
            {
                buckets.tokens.remove(&oldest);
            }
            buckets.order.push_back(key.clone());
        }
        let (tokens, since) = buckets.tokens.entry(key).or_insert((self.burst, now));
        let elapsed = now.duration_since(*since).as_secs_f64().max(0.0);
        *tokens = (*tokens + elapsed * self.per_second).min(self.burst);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let event = request.is("", "events", "") || request.is("events.k8s.io", "events", "");
        if !writes || !event || request.dry_run {
            return Ok(());
        }
        let mut over = Vec::new();
        for limit in &self.0 {
            let key = limit.key(request, object);
            if !limit.take(key.clone(), request.now) {
                over.push(format!("limit reached on type {:?} for key {key}", limit.by));
            }
        }
        if let [first, rest @ ..] = over.as_slice() {
            let all = if rest.is_empty() { first.clone() } else { format!("[{}]", over.join(", ")) };
            return Err(Status::new(429, "TooManyRequests", format!("Too many requests: {all}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn buckets_empty_and_fill() {
        let config = json!({"limits": [{"type": "User", "qps": 1, "burst": 2}]});
        let plugin = EventRateLimit::new(&config).expect("a configuration");
        let (kind, one, two) = (kind("events"), UserInfo::new("a", &[]), UserInfo::new("b", &[]));
        let send = async |user: &UserInfo, second: i64| {
            let mut request = request(&*kind, Operation::Create, "", "e", user, None);
            request.now = Timestamp::from_second(second).expect("a time");
            let done = plugin.validate(&request, &json!({}), &mut Vec::new()).await;
            done.map_err(|s| {
                assert_eq!(s.message, "Too many requests: limit reached on type User for key a");
                s.code
            })
        };
        assert_eq!((send(&one, 0).await, send(&one, 0).await, send(&one, 0).await), (Ok(()), Ok(()), Err(429)));
        assert_eq!(send(&two, 0).await, Ok(()));
        assert_eq!((send(&one, 1).await, send(&one, 1).await), (Ok(()), Err(429)));
        assert!(EventRateLimit::new(&json!({"limits": [{"type": "Nope", "qps": 1, "burst": 1}]})).is_err());
    }

    #[test]
    fn keys_are_bounded() {
        let config = json!({"type": "Namespace", "qps": 1, "burst": 1, "cacheSize": 2});
        let limit = Limit::parse(&config).expect("a limit");
        for key in ["a", "b", "c"] {
            assert!(limit.take(key.into(), Timestamp::UNIX_EPOCH));
        }
        assert_eq!(limit.buckets.lock().tokens.len(), 2);
        assert!(limit.take("a".into(), Timestamp::UNIX_EPOCH), "a was forgotten");
    }
}
