//! Webhooks: [`config`] says which there are, [`credentials`] who we are to them, [`review`] what is sent and answered,
//! [`call`] sends it. [`mutating`] calls one after the other, [`validating`] all at once.

pub mod call;
pub mod config;
pub mod credentials;
pub mod mutating;
pub mod review;
pub mod validating;

use orkd_api::status::Status;
use serde_json::Value;

use super::asked::Door;
use super::evaluate::{self, CONDITIONS_BUDGET, Group, Met};
use super::input::Input;
use super::round::Round;
use crate::admission::Request;
use config::Webhook;

/// Configurations of policies and webhooks are not sent to webhooks: a broken one can always be taken away
/// (`rules.IsExemptAdmissionConfigurationResource`).
fn is_exempt(request: &Request<'_>) -> bool {
    request.resource.group == "admissionregistration.k8s.io"
        && ["validatingwebhook", "mutatingwebhook", "validatingadmissionpolic", "mutatingadmissionpolic"]
            .iter()
            .any(|prefix| request.resource.plural.starts_with(prefix))
}

/// Whether a webhook is to be called, and for which door (`generic.Webhook.ShouldCallHook`).
async fn door<'r>(round: &'r Round<'_>, hook: &Webhook, object: &Value) -> Result<Option<&'r Door>, Status> {
    let Some(door) = round.door(&hook.constraints, object).await? else { return Ok(None) };
    if hook.conditions.is_empty() {
        return Ok(Some(door));
    }
    let unconverted = |status: Status| Status::internal(status.message);
    let shown = round.shown(door, object).await.map_err(unconverted)?;
    let old = round.shown(door, round.old()).await.map_err(unconverted)?;
    let request = round.request_value(door, "");
    let null = &Value::Null;
    let input = Input { object: &shown, old: &old, request: &request, namespace: null, params: null };
    let met = || {
        let group = Group::new(&[], input.bindings_with(&round.answers), CONDITIONS_BUDGET);
        evaluate::met(&hook.conditions, group, hook.fails_open)
    };
    let mut result = met();
    while round.answer().await {
        result = met();
    }
    match result {
        Met::Yes => Ok(Some(door)),
        Met::No => Ok(None),
        Met::Failed(why) => {
            let own = &round.asked.own;
            Err(Status::forbidden(&own.group, &own.resource, round.asked.name, &why))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Operation;
    use crate::admission::testing::request;
    use crate::user::UserInfo;

    #[test]
    fn configurations_are_exempt() {
        let user = UserInfo::new("u", &[]);
        for kind in orkd_api::kinds::all() {
            let exempt = is_exempt(&request(&*kind, Operation::Delete, "", "x", &user, None));
            assert_eq!(exempt, kind.info().group == "admissionregistration.k8s.io", "{}", kind.info().plural);
        }
    }
}
