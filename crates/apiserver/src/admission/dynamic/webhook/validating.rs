//! `ValidatingAdmissionWebhook` (`webhook/validating/dispatcher.go`): all webhooks that are meant are asked at once.

use std::time::Instant;

use async_trait::async_trait;
use futures_util::future::join_all;
use orkd_api::status::Status;
use serde_json::Value;

use super::super::asked::Door;
use super::super::round::{Round, World};
use super::call::{self, Failure, Phase};
use super::config::{Webhook, Webhooks};
use super::credentials::Credentials;
use super::review::Verdict;
use super::{door, is_exempt};
use crate::admission::{Parts, Plugin, Request};
use crate::pipeline::WeakServer;

/// The plugin.
pub struct ValidatingAdmissionWebhook {
    world: World,
    hooks: Webhooks,
}

impl ValidatingAdmissionWebhook {
    /// Configurations come by a feed of the parts. The error is the operator's: credentials that cannot be read.
    pub fn new(parts: &Parts) -> Result<Self, String> {
        let credentials = Credentials::load(parts.configs.of("ValidatingAdmissionWebhook"))
            .map_err(|e| format!("ValidatingAdmissionWebhook: {e}"))?;
        let feed = (parts.feeds)("admissionregistration.k8s.io", "validatingwebhookconfigurations");
        let world = World::new(parts.objects.clone(), parts.authorizer.clone());
        Ok(ValidatingAdmissionWebhook { world, hooks: Webhooks::new(feed, credentials) })
    }
}

/// Asks one webhook; the flag tells that it could not be asked and is to be ignored.
async fn ask(round: &Round<'_>, hook: &Webhook, door: &Door, object: &Value) -> (Verdict, Result<bool, Status>) {
    let begun = Instant::now();
    let unconverted = |status: Status| Failure::Unusable(Status::internal(status.message));
    let called = async {
        let shown = round.shown(door, object).await.map_err(unconverted)?;
        let old = round.shown(door, round.old()).await.map_err(unconverted)?;
        call::call(round, hook, Phase::Validating, door, &shown, &old).await
    };
    let called = called.await;
    let (verdict, outcome) = match called {
        Ok(verdict) => {
            let outcome = call::rejected(hook, &verdict);
            (verdict, outcome)
        }
        Err(failure) => (Verdict::default(), Err(failure)),
    };
    (verdict, call::conclude(hook, Phase::Validating, round.asked.operation, begun, outcome))
}

#[async_trait]
impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn bind(&self, server: &WeakServer) {
        self.world.bind(server);
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        if hooks.is_empty() || is_exempt(request) {
            return Ok(());
        }
        let round = Round::new(&self.world, request);
        let mut meant = Vec::new();
        for hook in hooks.iter() {
            if let Some(door) = door(&round, hook, object).await? {
                meant.push((hook, door));
            }
        }
        let asked = join_all(meant.iter().map(|(hook, door)| ask(&round, hook, door, object))).await;
        let mut refusal = None;
        for (n, ((hook, _), (verdict, outcome))) in meant.iter().zip(asked).enumerate() {
            round.pass_on(&hook.name, verdict, warnings);
            match outcome {
                Ok(false) => {}
                Ok(true) => {
                    let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{n}");
                    request.annotations.add(key, &*hook.name);
                }
                // The first one is told, in the order of the configurations.
                Err(status) => {
                    refusal.get_or_insert(status);
                }
            }
        }
        refusal.map_or(Ok(()), Err)
    }
}
