//! `MutatingAdmissionWebhook` (`webhook/mutating/dispatcher.go`): webhooks are asked one after the other, each about what
//! those before it have made of the object.

use std::time::Instant;

use async_trait::async_trait;
use orkd_api::patch::{apply, json};
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::super::asked::Door;
use super::super::reinvocation::Invoked;
use super::super::round::{Round, World};
use super::call::{self, Failure, Phase};
use super::config::{Webhook, Webhooks};
use super::credentials::Credentials;
use super::{door, is_exempt};
use crate::admission::{Parts, Plugin, Request};
use crate::pipeline::WeakServer;

/// The plugin.
pub struct MutatingAdmissionWebhook {
    world: World,
    hooks: Webhooks,
}

impl MutatingAdmissionWebhook {
    /// Configurations come by a feed of the parts. The error is the operator's: credentials that cannot be read.
    pub fn new(parts: &Parts) -> Result<Self, String> {
        let credentials = Credentials::load(parts.configs.of("MutatingAdmissionWebhook"))
            .map_err(|e| format!("MutatingAdmissionWebhook: {e}"))?;
        let feed = (parts.feeds)("admissionregistration.k8s.io", "mutatingwebhookconfigurations");
        let world = World::new(parts.objects.clone(), parts.authorizer.clone());
        Ok(MutatingAdmissionWebhook { world, hooks: Webhooks::new(feed, credentials) })
    }
}

/// What a webhook has done.
struct Done {
    /// Whether the object is another one.
    changed: bool,
    /// The patch, for audit.
    patch: Option<Value>,
}

const UNCHANGED: Done = Done { changed: false, patch: None };

/// Asks one webhook and applies its patch.
async fn ask(
    round: &Round<'_>,
    hook: &Webhook,
    door: &Door,
    object: &mut Value,
    warnings: &mut Vec<String>,
) -> Result<Done, Failure> {
    let unconverted = |status: Status| Failure::Unusable(Status::internal(status.message));
    let shown = round.shown(door, object).await.map_err(unconverted)?.into_owned();
    let old = round.shown(door, round.old()).await.map_err(unconverted)?;
    let mut verdict = call::call(round, hook, Phase::Admit, door, &shown, &old).await?;
    let patch = verdict.patch.take();
    let outcome = call::rejected(hook, &verdict);
    round.pass_on(&hook.name, verdict, warnings);
    outcome?;
    let Some((patch, ty)) = patch else { return Ok(UNCHANGED) };
    let undecodable = |why: &dyn std::fmt::Display| {
        Failure::Calling(format!("received undecodable patch in webhook response: {why}"), 503)
    };
    let patch: Value = serde_json::from_slice(&patch).map_err(|e| undecodable(&e))?;
    if patch.as_array().is_some_and(Vec::is_empty) {
        return Ok(UNCHANGED);
    }
    let decoded = json::Patch::decode(patch.clone()).map_err(|e| undecodable(&e))?;
    if !shown.is_object() {
        let text = "attempted to modify the object, which is not supported for this operation";
        return Err(Failure::Unusable(Status::internal(format!("admission webhook {:?} {text}", hook.name))));
    }
    if ty != "JSONPatch" {
        return Err(Failure::Calling(format!("unsupported patch type {ty:?}"), 503));
    }
    let mut patched = shown.clone();
    let why = |e: Status| Failure::Unusable(Status::internal(format!("patch of webhook {:?}: {e}", hook.name)));
    decoded.apply(&mut patched).map_err(why)?;
    let changed = round.replace(door, &shown, patched, object).await;
    let changed = changed.map_err(|e| Failure::Unusable(Status::internal(e)))?;
    Ok(Done { changed, patch: Some(patch) })
}

#[async_trait]
impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn bind(&self, server: &WeakServer) {
        self.world.bind(server);
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        if hooks.is_empty() || is_exempt(request) {
            return Ok(());
        }
        let again = request.reinvocation.is_again();
        let mut invoked: Invoked = std::mem::take(&mut *request.reinvocation.webhooks.lock());
        invoked.begin(again, object);
        let round = Round::new(&self.world, request);
        let managed = object["metadata"].get("managedFields").cloned();
        let mut any = false;
        for (n, hook) in hooks.iter().enumerate() {
            let Some(door) = door(&round, hook, object).await? else { continue };
            if !invoked.is_due(again, &hook.id) {
                continue;
            }
            let begun = Instant::now();
            let outcome = ask(&round, hook, door, object, warnings).await;
            let place = format!("round_{}_index_{n}", u8::from(again));
            let (done, outcome) = match outcome {
                Ok(done) => (done, Ok(())),
                Err(failure) => (UNCHANGED, Err(failure)),
            };
            let note = json!({"configuration": *hook.configuration, "webhook": hook.name, "mutated": done.changed});
            request.annotations.add(format!("mutation.webhook.admission.k8s.io/{place}"), note.to_string());
            if let Some(patch) = done.patch {
                let note = json!({"configuration": *hook.configuration, "webhook": hook.name, "patch": patch,
                    "patchType": "JSONPatch"});
                let key = format!("patch.webhook.admission.k8s.io/{place}");
                request.annotations.add_about_request(key, note.to_string());
            }
            if call::conclude(hook, Phase::Admit, request.operation, begun, outcome)? {
                let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                request.annotations.add(key, &*hook.name);
            }
            if done.changed {
                any = true;
                invoked.changed();
                request.reinvocation.want();
            }
            if hook.reinvoked {
                invoked.willing(&hook.id);
            }
        }
        if any {
            warnings.extend(apply::after_admission(managed.as_ref(), object));
        }
        invoked.end(object);
        *request.reinvocation.webhooks.lock() = invoked;
        Ok(())
    }
}
