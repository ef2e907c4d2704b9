//! The API group `autoscaling`. Its other kind, `Scale`, is the body of a subresource: [`crate::apps::scale`].

use crate::kind::Kind;

pub mod v1;
pub mod v2;

/// The kinds of the group; the stored form first.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(v2::HorizontalPodAutoscaler), Box::new(v1::HorizontalPodAutoscaler)]
}
