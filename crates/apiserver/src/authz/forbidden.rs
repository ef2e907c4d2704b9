//! The answer to a request that nobody allowed
//! (`k8s.io/apiserver/pkg/endpoints/handlers/responsewriters.Forbidden`).

use orkd_api::status::Status;

use super::Attributes;

/// The 403 for a request, with the authorizers' reason, if any.
pub fn forbidden(attributes: &Attributes<'_>, reason: &str) -> Status {
    let request = attributes.request;
    let mut text = format!("User {:?} cannot ", attributes.user.name);
    if request.is_resource {
        let resource = match request.subresource.as_str() {
            "" => request.resource.clone(),
            sub => format!("{}/{sub}", request.resource),
        };
        text.push_str(&format!("{} resource {resource:?} in API group {:?}", request.verb, request.group));
        match request.namespace.as_str() {
            "" => text.push_str(" at the cluster scope"),
            ns => text.push_str(&format!(" in the namespace {ns:?}")),
        }
    } else {
        text.push_str(&format!("{} path {:?}", request.verb, request.path));
    }
    if !reason.is_empty() {
        text.push_str(": ");
        text.push_str(reason);
    }
    Status::forbidden(&request.group, &request.resource, &request.name, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::RequestInfo;
    use crate::user::UserInfo;

    #[test]
    fn texts_are_upstreams() {
        let user = UserInfo::new("ann", &[]);
        let check = |request: RequestInfo, reason: &str, expected: &str| {
            assert_eq!(forbidden(&Attributes { user: &user, request: &request }, reason).message, expected);
        };
        let pods = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "default".into(),
            ..RequestInfo::default()
        };
        check(
            pods.clone(),
            "",
            "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
        );
        check(
            RequestInfo { namespace: String::new(), ..pods.clone() },
            "RBAC: x",
            "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" at the cluster scope: RBAC: x",
        );
        let log = RequestInfo { verb: "get".into(), subresource: "log".into(), name: "p".into(), ..pods };
        check(
            log,
            "",
            "pods \"p\" is forbidden: User \"ann\" cannot get resource \"pods/log\" in API group \"\" in the namespace \
             \"default\"",
        );
        let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
        check(path, "", "forbidden: User \"ann\" cannot get path \"/metrics\"");
    }
}
