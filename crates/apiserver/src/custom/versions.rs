//! The versions of a custom resource, and how an object gets from one to another.
//!
//! An object is stored in the version that was the storage version when it was written, and is asked for in any that is
//! served. Without a webhook (`strategy: None`) the versions have the same fields, and it is enough to say that an object
//! is of another one. A webhook is asked for many objects at a time; what it made of an object of the cache is kept beside
//! that object, so that it is asked once. Upstream: `apiextensions-apiserver/pkg/apiserver/conversion`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use orkd_api::codec::Strictness;
use orkd_api::custom::CustomKind;
use orkd_api::kind::Kind;
use orkd_api::object::{at, list, text};
use orkd_api::status::Status;
use orkd_base::metrics::{Counter, Family, Histogram};
use serde_json::Value;

use super::review;
use crate::admission::dynamic::webhook::config::Server;
use crate::admission::dynamic::webhook::credentials::Credentials;
use crate::admission::dynamic::webhook::review::failure;
use crate::cache::{Entry, Intake, Reader};
use crate::resources::view;

/// How long a webhook may take (the default of the client upstream).
const TIMEOUT: Duration = Duration::from_secs(30);
/// A webhook is asked for no more objects at a time,
const BATCH: usize = 500;
/// and no more bytes of them, one object aside: answers are limited, too.
const BATCH_BYTES: usize = 1 << 20;

static REQUESTS: Family<Counter> = Family::counter(
    "apiserver_conversion_webhook_request_total",
    "[ALPHA] Counter for conversion webhook requests with success/failure and failure error type",
    &["failure_type", "result"],
);
static REQUEST_TIME: Family<Histogram> = Family::histogram(
    "apiserver_conversion_webhook_duration_seconds",
    "[ALPHA] Conversion webhook request latency",
    &["failure_type", "result"],
    &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0],
);
static DEFINITION_TIME: Family<Histogram> = Family::histogram(
    "apiserver_crd_conversion_webhook_duration_seconds",
    "[ALPHA] CRD webhook conversion duration in seconds",
    &["crd_name", "from_version", "succeeded", "to_version"],
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384],
);

/// `ConversionWebhookErrorType` of upstream's metrics.
const CALL: &str = "conversion_webhook_call_failure";
const MALFORMED: &str = "conversion_webhook_malformed_response_failure";
const PARTIAL: &str = "conversion_webhook_partial_response_failure";
const INVALID: &str = "conversion_webhook_invalid_converted_object_failure";

/// The versions of one definition.
pub struct Versions {
    all: Vec<Arc<CustomKind>>,
    webhook: Option<Webhook>,
}

struct Webhook {
    /// The name of the definition, for metrics.
    definition: String,
    server: Result<Server, String>,
    version: Option<review::Version>,
    /// Finds the endpoints of Services.
    reader: Reader,
}

fn of<'k>(all: &'k [Arc<CustomKind>], version: &str) -> Option<&'k Arc<CustomKind>> {
    all.iter().find(|kind| kind.info().version == version)
}

fn api_version(object: &Value) -> &str {
    object["apiVersion"].as_str().unwrap_or_default()
}

fn failed(text: impl Into<String>) -> Status {
    Status::new(500, "", text)
}

impl Versions {
    /// The versions of a definition.
    pub fn new(all: Vec<Arc<CustomKind>>, definition: &Value, reader: Reader) -> Versions {
        let conversion = at(definition, &["spec", "conversion"]);
        let webhook = (conversion["strategy"] == "Webhook").then(|| {
            let accepted = list(conversion, &["webhook", "conversionReviewVersions"]);
            Webhook {
                definition: text(definition, &["metadata", "name"]).to_owned(),
                server: Server::new(at(conversion, &["webhook", "clientConfig"]), &Credentials::default()),
                version: review::Version::first(accepted.iter().filter_map(Value::as_str)),
                reader,
            }
        });
        Versions { all, webhook }
    }

    /// The kind of a version such as `example.com/v1`, served or not.
    pub fn kind(&self, api_version: &str) -> Option<&CustomKind> {
        self.all.iter().map(|kind| &**kind).find(|kind| kind.api_version() == api_version)
    }

    /// Whether there is more than one.
    pub fn are_many(&self) -> bool {
        self.all.len() > 1
    }

    /// Whether a webhook has to be asked.
    pub fn is_remote(&self) -> bool {
        self.are_many() && self.webhook.is_some()
    }

    /// What the cache makes of a record: an object that fits the schema of its version, with its defaults.
    pub fn intake(all: Vec<Arc<CustomKind>>) -> Intake {
        Arc::new(move |stored: &Bytes| {
            let mut object: Value = serde_json::from_slice(stored).ok()?;
            let (_, version) = api_version(&object).split_once('/')?;
            let kind = of(&all, version)?;
            // Upstream ends its records with a line break.
            let changed = kind.restore(&mut object) || stored.last() != Some(&b'}');
            Some(if changed { crate::codec::encode_stored(&**kind, &object) } else { stored.clone() })
        })
    }

    /// Makes an object one of another version, where no webhook has to be asked.
    pub fn turn(&self, object: &mut Value, to: &str) {
        let Some(kind) = of(&self.all, to).filter(|kind| kind.api_version() != api_version(object)) else { return };
        if self.webhook.is_none() {
            kind.adopt(object);
            // What is already an object of one version is well formed in the other.
            let _ = kind.normalize(object, Strictness::Ignore);
        }
    }

    /// Makes objects ones of another version.
    pub async fn convert(&self, objects: &mut [Value], to: &str) -> Result<(), Status> {
        let (Some(webhook), Some(kind)) = (self.webhook.as_ref().filter(|_| self.are_many()), of(&self.all, to)) else {
            objects.iter_mut().for_each(|object| self.turn(object, to));
            return Ok(());
        };
        let mut others: Vec<&mut Value> =
            objects.iter_mut().filter(|object| api_version(object) != kind.api_version()).collect();
        let mut rest = &mut others[..];
        while !rest.is_empty() {
            let mut bytes = 0;
            let many = rest.iter().take(BATCH).take_while(|object| {
                let fits = bytes < BATCH_BYTES;
                bytes += object.to_string().len();
                fits
            });
            let (batch, after) = rest.split_at_mut(many.count().max(1));
            let asked: Vec<&Value> = batch.iter().map(|object| &**object).collect();
            let made = webhook.convert(kind, &asked).await?;
            for (object, mut made) in batch.iter_mut().zip(made) {
                kind.normalize(&mut made, Strictness::Ignore).map_err(|e| failed(e.message))?;
                **object = made;
            }
            rest = after;
        }
        Ok(())
    }

    /// Has entries of the cache converted, as far as that has not been done.
    pub async fn prepare<'e>(
        &self,
        kind: &Arc<dyn Kind>,
        entries: impl IntoIterator<Item = &'e Arc<Entry>>,
    ) -> Result<(), Status> {
        let info = kind.info();
        let open = |entry: &&Arc<Entry>| {
            !entry.is_of(&info.group, &info.version) && entry.known_view(&info.type_name).is_none()
        };
        let open: Vec<&Arc<Entry>> = entries.into_iter().filter(open).collect();
        // No more than what is asked for at a time is held decoded.
        for batch in open.chunks(BATCH) {
            let mut objects: Vec<Value> = batch.iter().map(|entry| entry.decode()).collect();
            self.convert(&mut objects, &info.version).await?;
            for (entry, object) in batch.iter().zip(objects) {
                entry.view(&info.type_name, |_| view(&**kind, object, entry));
            }
        }
        Ok(())
    }
}

/// Why a conversion came to nothing: what is told, and what metrics call it, where it was tried.
struct Failure {
    status: Status,
    ty: Option<&'static str>,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure { status, ty: None }
    }
}

impl Webhook {
    /// Has objects of one kind converted, and counts it.
    async fn convert(&self, kind: &CustomKind, objects: &[&Value]) -> Result<Vec<Value>, Status> {
        let begun = Instant::now();
        let converted = self.ask(kind, objects).await;
        let took = begun.elapsed().as_secs_f64();
        let outcome = match &converted {
            Ok(_) => Some(["", "success"]),
            Err(failure) => failure.ty.map(|ty| [ty, "failure"]),
        };
        if let Some(labels) = outcome {
            REQUESTS.with(&labels).inc();
            REQUEST_TIME.with(&labels).observe(took);
        }
        let from = objects.first().and_then(|o| api_version(o).split_once('/')).map_or("", |(_, version)| version);
        let succeeded = if converted.is_ok() { "true" } else { "false" };
        DEFINITION_TIME.with(&[&self.definition, from, succeeded, &kind.info().version]).observe(took);
        converted.map_err(|failure| failure.status)
    }

    async fn ask(&self, kind: &CustomKind, objects: &[&Value]) -> Result<Vec<Value>, Failure> {
        let desired = kind.api_version();
        let first = objects.first().map(|o| review::group_version_kind(o)).unwrap_or_default();
        let fails = |ty: &'static str, text: String| Failure { status: failed(text), ty: Some(ty) };
        let told = |ty, why: &dyn std::fmt::Display| fails(ty, format!("conversion webhook for {first} failed: {why}"));
        let Some(version) = self.version else { return Err(failed("no supported conversion review versions").into()) };
        let server = self.server.as_ref().map_err(failed)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let question = review::question(version, &uid, objects, desired).to_string();
        let answer = server.post(question, TIMEOUT, Some(self.reader.clone())).await;
        let answer = answer.map_err(|e| told(CALL, &e))?;
        if !(200..300).contains(&answer.status) {
            return Err(told(CALL, &failure(answer.status, &answer.body)));
        }
        let answer = serde_json::from_slice(&answer.body)
            .map_err(|e| told(CALL, &format_args!("couldn't get version/kind; json parse error: {e}")))?;
        let converted = review::objects(version, &uid, answer).map_err(|e| told(MALFORMED, &e))?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            let text = format!("conversion webhook for {first} returned {got} objects, expected {expected}");
            return Err(fails(PARTIAL, text));
        }
        let one = |(index, (original, converted)): (usize, (&&Value, Value))| {
            review::checked(original, converted, desired).map_err(|wrong| fails(INVALID, wrong.told(&first, index)))
        };
        objects.iter().zip(converted).enumerate().map(one).collect()
    }
}
