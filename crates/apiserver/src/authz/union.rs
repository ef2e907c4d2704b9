//! Asks authorizers in order (`k8s.io/apiserver/pkg/authorization/union`) and counts who decided
//! (`k8s.io/apiserver/pkg/authorization/metrics`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use orkd_base::metrics::{Counter, Family};

use super::{Attributes, Authorizer, Decision, Rules};
use crate::user::UserInfo;

static DECISIONS: Family<Counter> = Family::counter(
    "apiserver_authorization_decisions_total",
    "[ALPHA] Total number of terminal decisions made by an authorizer split by authorizer type, name, and decision.",
    &["decision", "name", "type"],
);

/// An authorizer of a union.
pub struct Member {
    authorizer: Arc<dyn Authorizer>,
    /// How often it allowed, and how often it denied; looked up once.
    decisions: Option<(Arc<Counter>, Arc<Counter>)>,
}

impl Member {
    /// One whose decisions nobody counts.
    pub fn uncounted(authorizer: Arc<dyn Authorizer>) -> Self {
        Member { authorizer, decisions: None }
    }

    /// One that metrics tell of by its type and name.
    pub fn counted(kind: &str, name: &str, authorizer: Arc<dyn Authorizer>) -> Self {
        let of = |decision: &str| DECISIONS.with(&[decision, name, kind]);
        Member { authorizer, decisions: Some((of("allowed"), of("denied"))) }
    }
}

/// All authorizers of a server; others may take their place while it runs.
pub struct Union(ArcSwap<Vec<Member>>);

impl Union {
    /// A union of authorizers in the order they are asked.
    pub fn new(members: Vec<Member>) -> Self {
        Union(ArcSwap::from_pointee(members))
    }

    /// Asks others from now on.
    pub fn replace(&self, members: Vec<Member>) {
        self.0.store(Arc::new(members));
    }
}

#[async_trait]
impl Authorizer for Union {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        let mut reasons = Vec::new();
        for member in self.0.load_full().iter() {
            let decision = member.authorizer.authorize(attributes).await;
            match (&decision, &member.decisions) {
                (Decision::NoOpinion(reason), _) => {
                    if !reason.is_empty() {
                        reasons.push(reason.clone());
                    }
                    continue;
                }
                (Decision::Allow(_), Some((allowed, _))) => allowed.inc(),
                (Decision::Deny(_), Some((_, denied))) => denied.inc(),
                _ => {}
            }
            return decision;
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        let mut all = Rules::default();
        let mut errors = Vec::new();
        for member in self.0.load_full().iter() {
            let rules = member.authorizer.rules(user, namespace).await;
            all.resources.extend(rules.resources);
            all.paths.extend(rules.paths);
            all.incomplete |= rules.incomplete;
            if !rules.error.is_empty() {
                errors.push(rules.error);
            }
        }
        all.error = match errors.len() {
            0 | 1 => errors.pop().unwrap_or_default(),
            _ => format!("[{}]", errors.join(", ")),
        };
        all
    }
}
