//! Every image is pulled anew, so that nobody runs a private image that happens to lie on a node
//! (`plugin/pkg/admission/alwayspullimages`).

use async_trait::async_trait;
use orkd_api::field::{ErrorList, Path};
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, items};

/// The plugin.
pub struct AlwaysPullImages;

const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Creations count, and updates that add an image.
fn applies(request: &Request<'_>, object: &Value) -> bool {
    let pods = request.is("", "pods", "") || request.is("", "pods", "ephemeralcontainers");
    match request.operation {
        Operation::Create => pods,
        Operation::Update => {
            let images = |pod: &Value| -> Vec<String> {
                let of = |list: &&str| items(&pod["spec"][*list]).to_vec();
                LISTS.iter().flat_map(of).filter_map(|c| c["image"].as_str().map(str::to_owned)).collect()
            };
            let old = request.old.map(images).unwrap_or_default();
            pods && images(object).iter().any(|image| !old.contains(image))
        }
        _ => false,
    }
}

#[async_trait]
impl Plugin for AlwaysPullImages {
    fn name(&self) -> &'static str {
        "AlwaysPullImages"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        if !applies(request, object) {
            return Ok(());
        }
        for list in LISTS {
            let containers = object["spec"].get_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten().filter(|c| c.is_object()) {
                container["imagePullPolicy"] = json!("Always");
            }
        }
        let volumes = object["spec"].get_mut("volumes").and_then(Value::as_array_mut);
        for volume in volumes.into_iter().flatten().filter(|v| v["image"].is_object()) {
            volume["image"]["pullPolicy"] = json!("Always");
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        if !applies(request, object) {
            return Ok(());
        }
        let mut errors = ErrorList::new();
        for list in LISTS {
            for (i, container) in items(&object["spec"][list]).iter().enumerate() {
                if container["imagePullPolicy"] != "Always" {
                    let path = Path::new("spec").child(list).index(i).child("imagePullPolicy");
                    let policy = container["imagePullPolicy"].as_str().unwrap_or_default();
                    errors.not_supported(&path, policy, &["Always"]);
                }
            }
        }
        match errors.0.first() {
            None => Ok(()),
            Some(error) => Err(request.forbidden(object, &error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn the_policy_becomes_always() {
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        let create = request(&*kind, Operation::Create, "", "", &user, None);
        let mut pod = json!({"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Never"}]}});
        assert!(AlwaysPullImages.validate(&create, &pod, &mut Vec::new()).await.is_err());
        AlwaysPullImages.admit(&create, &mut pod, &mut Vec::new()).await.expect("admitted");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Always");
        assert!(AlwaysPullImages.validate(&create, &pod, &mut Vec::new()).await.is_ok());
        let old = json!({"spec": {"containers": [{"name": "c", "image": "i", "imagePullPolicy": "Never"}]}});
        let same = request(&*kind, Operation::Update, "", "", &user, Some(&old));
        assert!(AlwaysPullImages.validate(&same, &old, &mut Vec::new()).await.is_ok(), "no new image");
    }
}
