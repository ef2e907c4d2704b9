//! Whole values of upstream's internal types as errors show them, by the table of the served types: pod templates and what
//! is in them, policies of jobs, terms that choose nodes.
//!
//! An internal type has the fields of the served one under their Go names, all of them, whether set or not; where it
//! differs from that is said here: other names, another order, the host's namespaces in the security context, metadata
//! among the other fields. Single structs without structs in them are in [`internal`](super::internal).

use serde_json::{Value, json};

use crate::codec::json;
use crate::field::{Shown, quote};
use crate::object::{at, set};
use crate::schema::{Builtin, Field, Type};

/// A value of the type of this name (`k8s.io/api/core/v1.PodTemplateSpec`), or a list of such; nothing is `null`.
pub fn shown(ty: &str, v: &Value) -> Shown {
    let Some(ty) = Type::named(ty) else { return Shown::raw(json::to_string(v)) };
    Shown::raw(match v {
        Value::Null => "null".to_owned(),
        Value::Array(list) => list_text(ty, list),
        v => one(ty, v),
    })
}

fn list_text(ty: Type, list: &[Value]) -> String {
    format!("[{}]", list.iter().map(|v| one(ty, v)).collect::<Vec<_>>().join(","))
}

/// A value that is there, if only as Go's zero value.
fn one(ty: Type, v: &Value) -> String {
    let zero = |zero: &str| if v.is_null() { zero.to_owned() } else { json::to_string(v) };
    match ty.builtin() {
        Some(Builtin::String) => zero("\"\""),
        Some(Builtin::Quantity) => zero("\"0\""),
        Some(Builtin::Bool) => zero("false"),
        Some(Builtin::Int32 | Builtin::Int64 | Builtin::Float64 | Builtin::IntOrString) => zero("0"),
        Some(_) => zero("null"),
        None if ty.name().starts_with("k8s.io/apimachinery/") => of_metav1(ty, v),
        None => {
            let mut members = Vec::new();
            of_struct(&mut members, ty, v);
            format!("{{{}}}", members.join(","))
        }
    }
}

/// Types of `metav1` are the same inside and outside.
fn of_metav1(ty: Type, v: &Value) -> String {
    let v = if v.is_null() { &json!({}) } else { v };
    String::from_utf8(json::to_vec(v, ty)).unwrap_or_default()
}

fn of_struct(members: &mut Vec<String>, ty: Type, v: &Value) {
    if ty.short_name() == "PodSpec" {
        let mut v = v.clone();
        for field in OF_HOST {
            if !at(&v, &[field]).is_null() {
                let value = at(&v, &[field]).clone();
                set(&mut v, &["securityContext", field], value);
            }
        }
        return of_fields(members, ty, &v);
    }
    if ty.short_name() == "PodSecurityContext"
        && let Some(spec) = Type::named("k8s.io/api/core/v1.PodSpec")
    {
        members.extend(OF_HOST.iter().filter_map(|name| spec.field(name)).map(|field| member(ty, field, v)));
    }
    of_fields(members, ty, v);
}

fn of_fields(members: &mut Vec<String>, ty: Type, v: &Value) {
    let first = first(ty);
    let ordered = first.iter().filter_map(|name| ty.declared().iter().find(|f| f.name() == *name));
    let rest = ty.declared().iter().filter(|f| f.is_inline() || !first.contains(&f.name()));
    for field in ordered.chain(rest) {
        if field.is_inline() {
            of_struct(members, field.ty(), v);
        } else if field.name() == "metadata" {
            let text = of_metav1(field.ty(), at(v, &["metadata"]));
            let inner = text.trim_start_matches('{').strip_suffix('}').unwrap_or_default();
            members.extend(Some(inner).filter(|inner| !inner.is_empty()).map(str::to_owned));
        } else if !(ty.short_name() == "PodSpec"
            && (OF_HOST.contains(&field.name()) || field.name() == "serviceAccount"))
        {
            members.push(member(ty, field, v));
        }
    }
}

fn member(ty: Type, field: &Field, v: &Value) -> String {
    let value = at(v, &[field.name()]);
    let text = match value {
        Value::Null if field.is_list() || field.is_map() || field.is_pointer() => "null".to_owned(),
        Value::Array(list) if field.is_list() => list_text(field.ty(), list),
        Value::Object(map) if field.is_map() => {
            let entries = map.iter().map(|(key, v)| format!("{}:{}", quote(key), one(field.ty(), v)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
        }
        value => one(field.ty(), value),
    };
    format!("\"{}\":{text}", go_name(ty, field.name()))
}

/// What of a pod is in its security context inside.
const OF_HOST: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// The fields that come before the others where the order is another one inside.
fn first(ty: Type) -> &'static [&'static str] {
    match ty.short_name() {
        "PodSpec" => &[
            "volumes",
            "initContainers",
            "containers",
            "ephemeralContainers",
            "restartPolicy",
            "terminationGracePeriodSeconds",
            "activeDeadlineSeconds",
            "dnsPolicy",
            "nodeSelector",
            "serviceAccountName",
            "automountServiceAccountToken",
            "nodeName",
            "securityContext",
            "imagePullSecrets",
            "hostname",
            "subdomain",
            "setHostnameAsFQDN",
            "affinity",
            "schedulerName",
            "tolerations",
            "hostAliases",
            "priorityClassName",
            "priority",
            "preemptionPolicy",
            "dnsConfig",
            "readinessGates",
            "runtimeClassName",
            "overhead",
            "enableServiceLinks",
            "topologySpreadConstraints",
        ],
        "VolumeSource" => &[
            "hostPath",
            "emptyDir",
            "gcePersistentDisk",
            "awsElasticBlockStore",
            "gitRepo",
            "secret",
            "nfs",
            "iscsi",
            "glusterfs",
            "persistentVolumeClaim",
            "rbd",
            "quobyte",
        ],
        _ => &[],
    }
}

/// The name of a field in Go: that in JSON with a capital, but for abbreviations and a few old names.
fn go_name(ty: Type, name: &str) -> String {
    const NAMES: [(&str, &str); 35] = [
        ("ip", "IP"),
        ("os", "OS"),
        ("fc", "FC"),
        ("nfs", "NFS"),
        ("rbd", "RBD"),
        ("csi", "CSI"),
        ("tty", "TTY"),
        ("uid", "UID"),
        ("iqn", "IQN"),
        ("grpc", "GRPC"),
        ("iscsi", "ISCSI"),
        ("wwids", "WWIDs"),
        ("cephfs", "CephFS"),
        ("fsType", "FSType"),
        ("pdName", "PDName"),
        ("httpGet", "HTTPGet"),
        ("fsGroup", "FSGroup"),
        ("diskURI", "DataDiskURI"),
        ("apiGroup", "APIGroup"),
        ("tcpSocket", "TCPSocket"),
        ("storageos", "StorageOS"),
        ("dnsPolicy", "DNSPolicy"),
        ("dnsConfig", "DNSConfig"),
        ("apiVersion", "APIVersion"),
        ("sslEnabled", "SSLEnabled"),
        ("httpHeaders", "HTTPHeaders"),
        ("seLinuxOptions", "SELinuxOptions"),
        ("iscsiInterface", "ISCSIInterface"),
        ("chapAuthSession", "SessionCHAPAuth"),
        ("gcePersistentDisk", "GCEPersistentDisk"),
        ("chapAuthDiscovery", "DiscoveryCHAPAuth"),
        ("gmsaCredentialSpec", "GMSACredentialSpec"),
        ("fsGroupChangePolicy", "FSGroupChangePolicy"),
        ("seLinuxChangePolicy", "SELinuxChangePolicy"),
        ("awsElasticBlockStore", "AWSElasticBlockStore"),
    ];
    match (ty.short_name(), name) {
        ("RBDVolumeSource", "monitors") => return "CephMonitors".into(),
        ("RBDVolumeSource", "image") => return "RBDImage".into(),
        ("RBDVolumeSource", "pool") => return "RBDPool".into(),
        ("RBDVolumeSource", "user") => return "RadosUser".into(),
        ("GlusterfsVolumeSource", "endpoints") => return "EndpointsName".into(),
        (_, "gmsaCredentialSpecName") => return "GMSACredentialSpecName".into(),
        _ => {}
    }
    if let Some((_, go)) = NAMES.iter().find(|(json, _)| *json == name) {
        return (*go).into();
    }
    let mut letters = name.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_shown_with_all_its_fields() {
        let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {
            "containers": [{"name": "c", "image": "i", "env": [{"name": "E", "valueFrom": {"fieldRef": {"apiVersion": "v1",
                "fieldPath": "metadata.name"}}}], "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 10}}],
            "volumes": [{"name": "v", "emptyDir": {}}], "restartPolicy": "Never", "hostNetwork": true,
            "securityContext": {}, "serviceAccount": "old", "dnsPolicy": "ClusterFirst"}});
        let text = shown("k8s.io/api/core/v1.PodTemplateSpec", &template).text().to_owned();
        for part in [
            r#"{"labels":{"a":"b"},"Spec":{"Volumes":[{"Name":"v","HostPath":null,"EmptyDir":{"Medium":"","SizeLimit":null},"GCEPersistentDisk":null,"#,
            r#""RBD":null,"Quobyte":null,"FlexVolume":null,"#,
            r#""InitContainers":null,"Containers":[{"Name":"c","Image":"i","Command":null,"Args":null,"WorkingDir":"","Ports":null,"EnvFrom":null,"Env":[{"Name":"E","Value":"","ValueFrom":{"FieldRef":{"APIVersion":"v1","FieldPath":"metadata.name"},"#,
            r#""Resources":{"Limits":{"cpu":"1"},"Requests":null,"Claims":null},"ResizePolicy":null,"#,
            r#""LivenessProbe":{"Exec":null,"HTTPGet":null,"TCPSocket":{"Port":1,"Host":""},"GRPC":null,"InitialDelaySeconds":0,"TimeoutSeconds":0,"PeriodSeconds":10,"#,
            r#""Stdin":false,"StdinOnce":false,"TTY":false}],"EphemeralContainers":null,"RestartPolicy":"Never","TerminationGracePeriodSeconds":null,"ActiveDeadlineSeconds":null,"DNSPolicy":"ClusterFirst","NodeSelector":null,"ServiceAccountName":"","AutomountServiceAccountToken":null,"NodeName":"","SecurityContext":{"HostNetwork":true,"HostPID":false,"HostIPC":false,"ShareProcessNamespace":null,"HostUsers":null,"SELinuxOptions":null,"#,
            r#""TopologySpreadConstraints":null,"OS":null,"#,
        ] {
            assert!(text.contains(part), "{part}\nnot in\n{text}");
        }
        assert!(!text.contains("ServiceAccount\""), "{text}");
        let read: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(read["Spec"]["Containers"][0]["Name"], "c");
    }

    #[test]
    fn lists_and_nothing_are_shown_too() {
        const TERM: &str = "k8s.io/api/core/v1.NodeSelectorTerm";
        assert_eq!(shown(TERM, &Value::Null).text(), "null");
        assert_eq!(
            shown(TERM, &json!([{"matchExpressions": [{"key": "k", "operator": "Exists"}]}])).text(),
            r#"[{"MatchExpressions":[{"Key":"k","Operator":"Exists","Values":null}],"MatchFields":null}]"#
        );
        assert_eq!(
            shown("k8s.io/api/batch/v1.SuccessPolicy", &json!({"rules": [{"succeededCount": 1}]})).text(),
            r#"{"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}"#
        );
    }
}
