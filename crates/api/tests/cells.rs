//! What `kubectl get` shows of objects in all their states. Upstream: `pkg/printers/internalversion/printers.go`.

use orkd_api::Value;
use orkd_api::kind::Kind;
use serde_json::json;

/// The time of every test.
const NOW: &str = "2026-01-01T00:01:00Z";

fn kind(group: &str, name: &str) -> Box<dyn Kind> {
    let found = orkd_api::kinds::all().into_iter().find(|k| k.info().group == group && k.info().kind == name);
    found.unwrap_or_else(|| panic!("{group} {name}"))
}

fn cells(group: &str, name: &str, mut obj: Value) -> Vec<Value> {
    if obj["metadata"].is_null() {
        obj["metadata"] = json!({});
    }
    obj["metadata"]["name"] = json!("x");
    obj["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    kind(group, name).cells(&obj, NOW.parse().expect("a time"))
}

/// The cells but the name and the age, which are alike everywhere.
fn check(group: &str, name: &str, obj: Value, expected: &str) {
    let kind = kind(group, name);
    let columns = &kind.info().columns;
    let cells = cells(group, name, obj);
    assert_eq!(cells.len(), columns.len(), "{name}");
    let shown: Vec<String> = columns
        .iter()
        .zip(&cells)
        .filter(|(c, _)| !matches!(&*c.name, "Name" | "Age" | "Created At"))
        .map(|(_, cell)| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned))
        .collect();
    assert_eq!(shown.join(" | "), expected, "{name}");
}

#[test]
fn every_kind_fills_its_columns() {
    let root = std::env::var_os("ORKD_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    let mut seen = 0;
    for kind in orkd_api::kinds::all() {
        let info = kind.info();
        if !info.verbs.contains(&"get") {
            continue;
        }
        let group = if info.group.is_empty() { "core" } else { &*info.group };
        let file = format!("kubernetes-1.36/testdata/{group}.{}.{}.json", info.version, info.kind);
        let Ok(bytes) = std::fs::read(root.join(&file)) else {
            eprintln!("skipped: no ../shared ({file})");
            continue;
        };
        seen += 1;
        for obj in [serde_json::from_slice(&bytes).expect("testdata is JSON"), json!({"metadata": {"name": "x"}})] {
            let cells = kind.cells(&obj, NOW.parse().expect("a time"));
            assert_eq!(cells.len(), info.columns.len(), "{}", info.kind);
            for (column, cell) in info.columns.iter().zip(&cells) {
                let fits = match &*column.ty {
                    "integer" => cell.is_number() || cell.is_string(),
                    // An object that is not stored has no date.
                    "date" => cell.is_string() || cell.is_null(),
                    "boolean" => cell.is_boolean() || cell.is_string(),
                    _ => cell.is_string() || cell.is_number() || cell.is_boolean(),
                };
                assert!(fits, "{} {}: {cell}", info.kind, column.name);
            }
        }
    }
    eprintln!("{seen} kinds");
}

fn pod(status: Value) -> Value {
    json!({"spec": {"nodeName": "n", "containers": [{"name": "a"}, {"name": "b"}],
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]}, "status": status})
}

fn running(name: &str) -> Value {
    json!({"name": name, "ready": true, "started": true, "state": {"running": {}}})
}

fn ended(name: &str, terminated: Value) -> Value {
    json!({"name": name, "state": {"terminated": terminated}})
}

fn waiting(name: &str, reason: &str, restarts: i64) -> Value {
    json!({"name": name, "restartCount": restarts, "state": {"waiting": {"reason": reason}}})
}

#[test]
fn pods() {
    let check = |obj: Value, expected: &str| {
        let cells = cells("", "Pod", obj);
        let shown: Vec<&str> = cells.get(1..4).unwrap_or_default().iter().filter_map(Value::as_str).collect();
        assert_eq!(shown.join(" | "), expected);
    };
    let ready = json!([{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]);
    let done = ended("i", json!({"exitCode": 0, "reason": "Completed"}));
    let of = |phase: &str, init: Value, main: Value| {
        pod(json!({"phase": phase, "initContainerStatuses": init, "containerStatuses": main, "conditions": ready}))
    };
    check(pod(json!({"phase": "Pending"})), "0/3 | Pending | 0");
    check(
        pod(
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
        ),
        "0/3 | SchedulingGated | 0",
    );
    check(
        pod(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]})),
        "0/3 | Init:0/2 | 0",
    );
    check(
        pod(json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "CrashLoopBackOff", 3)]})),
        "0/3 | Init:CrashLoopBackOff | 3",
    );
    check(
        pod(
            json!({"phase": "Pending", "initContainerStatuses": [ended("i", json!({"exitCode": 2, "reason": "Error"}))]}),
        ),
        "0/3 | Init:Error | 0",
    );
    check(
        pod(json!({"phase": "Pending", "initContainerStatuses": [ended("i", json!({"exitCode": 2}))]})),
        "0/3 | Init:ExitCode:2 | 0",
    );
    check(
        pod(json!({"phase": "Pending", "initContainerStatuses": [ended("i", json!({"exitCode": 137, "signal": 9}))]})),
        "0/3 | Init:Signal:9 | 0",
    );
    check(
        pod(json!({"phase": "Pending", "initContainerStatuses": [done, {"name": "s", "state": {"running": {}}}]})),
        "0/3 | Init:1/2 | 0",
    );
    let sidecar = running("s");
    check(of("Running", json!([done, sidecar]), json!([running("a"), running("b")])), "3/3 | Running | 0");
    check(
        of(
            "Pending",
            json!([done, sidecar]),
            json!([waiting("a", "ContainerCreating", 0), waiting("b", "ImagePullBackOff", 0)]),
        ),
        "1/3 | ContainerCreating | 0",
    );
    check(
        of("Running", json!([done, sidecar]), json!([running("a"), waiting("b", "CrashLoopBackOff", 4)])),
        "2/3 | CrashLoopBackOff | 4",
    );
    check(
        of(
            "Running",
            json!([done, sidecar]),
            json!([running("a"), ended("b", json!({"exitCode": 0, "reason": "Completed"}))]),
        ),
        "2/3 | Running | 0",
    );
    let mut not_ready =
        of("Running", json!([done, sidecar]), json!([running("a"), ended("b", json!({"reason": "Completed"}))]));
    not_ready["status"]["conditions"] = json!([]);
    check(not_ready, "2/3 | NotReady | 0");
    check(
        of(
            "Succeeded",
            json!([done]),
            json!([ended("a", json!({"reason": "Completed"})), ended("b", json!({"reason": "Completed"}))]),
        ),
        "0/3 | Completed | 0",
    );
    check(
        of(
            "Failed",
            json!([done]),
            json!([
                ended("a", json!({"exitCode": 1, "reason": "Error"})),
                ended("b", json!({"exitCode": 137, "reason": "OOMKilled"}))
            ]),
        ),
        "0/3 | Error | 0",
    );
    check(pod(json!({"phase": "Failed", "reason": "Evicted"})), "0/3 | Evicted | 0");
    let mut deleted = of("Running", json!([done, sidecar]), json!([running("a"), running("b")]));
    deleted["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:30Z"});
    check(deleted.clone(), "3/3 | Terminating | 0");
    deleted["status"]["reason"] = json!("NodeLost");
    check(deleted, "3/3 | Unknown | 0");

    let conditions = |phase: &str| kind("", "Pod").row_conditions(&pod(json!({"phase": phase})));
    assert_eq!(conditions("Running"), Vec::<Value>::new());
    assert_eq!(conditions("Succeeded")[0]["message"], "The pod has completed successfully.");
    assert_eq!(conditions("Failed")[0]["reason"], "Failed");
}

#[test]
fn workloads() {
    let template = json!({"spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"app": "x"}, "matchExpressions": [{"key": "t", "operator": "In", "values": ["b", "a"]}]});
    let spec = |extra: Value| {
        let mut spec = json!({"template": template, "selector": selector});
        for (k, v) in extra.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        spec
    };
    let tail = "a,b | i:1,j | app=x,t in (a,b)";
    check(
        "apps",
        "Deployment",
        json!({"spec": spec(json!({"replicas": 3})), "status": {"readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1}}),
        &format!("1/3 | 2 | 1 | {tail}"),
    );
    check(
        "apps",
        "ReplicaSet",
        json!({"spec": spec(json!({"replicas": 3})), "status": {"replicas": 2, "readyReplicas": 1}}),
        &format!("3 | 2 | 1 | {tail}"),
    );
    check(
        "apps",
        "StatefulSet",
        json!({"spec": spec(json!({"replicas": 2})), "status": {"readyReplicas": 1}}),
        "1/2 | a,b | i:1,j",
    );
    check(
        "apps",
        "DaemonSet",
        json!({"spec": spec(json!({})), "status": {"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1}}),
        &format!("3 | 2 | 1 | 0 | 0 | <none> | {tail}"),
    );
    check(
        "",
        "ReplicationController",
        json!({"spec": {"replicas": 1, "selector": {"app": "x"}, "template": template}}),
        "1 | 0 | 0 | a,b | i:1,j | app=x",
    );
    let job = |spec_extra: Value, status: Value| json!({"spec": spec(spec_extra), "status": status});
    let started = "2026-01-01T00:00:10Z";
    check(
        "batch",
        "Job",
        job(json!({"completions": 2}), json!({"succeeded": 1, "startTime": started})),
        &format!("Running | 1/2 | 50s | {tail}"),
    );
    check("batch", "Job", job(json!({"parallelism": 3}), json!({})), &format!("Running | 0/1 of 3 |  | {tail}"));
    let condition = |ty: &str| json!({"conditions": [{"type": ty, "status": "True"}], "startTime": started, "completionTime": "2026-01-01T00:00:15Z"});
    for (ty, shown) in [
        ("Complete", "Complete"),
        ("Failed", "Failed"),
        ("Suspended", "Suspended"),
        ("FailureTarget", "FailureTarget"),
        ("SuccessCriteriaMet", "SuccessCriteriaMet"),
    ] {
        check("batch", "Job", job(json!({"completions": 1}), condition(ty)), &format!("{shown} | 0/1 | 5s | {tail}"));
    }
    let cron = |extra: Value, status: Value| {
        let mut spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": template}}});
        for (k, v) in extra.as_object().into_iter().flatten() {
            spec[k] = v.clone();
        }
        json!({"spec": spec, "status": status})
    };
    check(
        "batch",
        "CronJob",
        cron(json!({"suspend": true, "timeZone": "Etc/UTC"}), json!({"active": [{}], "lastScheduleTime": started})),
        "* * * * * | Etc/UTC | True | 1 | 50s | a,b | i:1,j | <none>",
    );
    check(
        "batch",
        "CronJob",
        cron(json!({"suspend": false}), json!({})),
        "* * * * * | <none> | False | 0 | <none> | a,b | i:1,j | <none>",
    );
    check(
        "policy",
        "PodDisruptionBudget",
        json!({"spec": {"maxUnavailable": "30%"}, "status": {"disruptionsAllowed": 2}}),
        "N/A | 30% | 2",
    );
    check(
        "",
        "PodTemplate",
        json!({"template": {"metadata": {"labels": {"app": "x"}}, "spec": template["spec"]}}),
        "a,b | i:1,j | app=x",
    );
}

#[test]
fn services_and_the_like() {
    let service = |spec: Value, status: Value| json!({"spec": spec, "status": status});
    let ports = json!([{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "nodePort": 30053}]);
    check(
        "",
        "Service",
        service(
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "ports": ports, "selector": {"a": "b"}}),
            json!({}),
        ),
        "ClusterIP | 10.0.0.1 | <none> | 80/TCP,53:30053/UDP | a=b",
    );
    check(
        "",
        "Service",
        service(
            json!({"type": "NodePort", "clusterIP": "10.0.0.1", "externalIPs": ["1.1.1.1", "2.2.2.2"], "ports": []}),
            json!({}),
        ),
        "NodePort | 10.0.0.1 | 1.1.1.1,2.2.2.2 | <none> | <none>",
    );
    let lb = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": ports});
    check(
        "",
        "Service",
        service(lb.clone(), json!({})),
        "LoadBalancer | 10.0.0.1 | <pending> | 80/TCP,53:30053/UDP | <none>",
    );
    check(
        "",
        "Service",
        service(lb.clone(), json!({"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "h"}]}})),
        "LoadBalancer | 10.0.0.1 | 9.9.9.9,h | 80/TCP,53:30053/UDP | <none>",
    );
    let mut both = lb;
    both["externalIPs"] = json!(["1.1.1.1"]);
    check(
        "",
        "Service",
        service(both, json!({"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}]}})),
        "LoadBalancer | 10.0.0.1 | 9.9.9.9,1.1.1.1 | 80/TCP,53:30053/UDP | <none>",
    );
    check(
        "",
        "Service",
        service(json!({"type": "ExternalName", "externalName": "a.b"}), json!({})),
        "ExternalName | <none> | a.b | <none> | <none>",
    );
    check("", "Endpoints", json!({}), "<none>");
    check(
        "",
        "Endpoints",
        json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}, {"ip": "1.1.1.3"}, {"ip": "1.1.1.4"}], "ports": [{"name": "p", "port": 80}]}]}),
        "1.1.1.1:80,1.1.1.2:80,1.1.1.3:80 + 1 more...",
    );
    check(
        "discovery.k8s.io",
        "EndpointSlice",
        json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.1.1.1"]}], "ports": [{"port": 80}, {"name": "n"}]}),
        "IPv4 | 80,n | 1.1.1.1",
    );
    check("discovery.k8s.io", "EndpointSlice", json!({"addressType": "IPv4"}), "IPv4 | <unset> | <unset>");
    let rule = |host: &str| json!({"host": host});
    check(
        "networking.k8s.io",
        "Ingress",
        json!({"spec": {"ingressClassName": "c", "rules": [rule("a"), rule("b"), rule("c"), rule("d")], "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}]}}}),
        "c | a,b,c + 1 more... | 9.9.9.9 | 80, 443",
    );
    check("networking.k8s.io", "Ingress", json!({"spec": {"defaultBackend": {}}}), "<none> | * |  | 80");
    check(
        "networking.k8s.io",
        "IngressClass",
        json!({"spec": {"controller": "c.io/x", "parameters": {"apiGroup": "g", "kind": "K", "name": "n"}}}),
        "c.io/x | K.g/n",
    );
    check("networking.k8s.io", "NetworkPolicy", json!({"spec": {"podSelector": {}}}), "<none>");
    check(
        "networking.k8s.io",
        "ServiceCIDR",
        json!({"spec": {"cidrs": ["10.0.0.0/8", "fd00::/8"]}}),
        "10.0.0.0/8,fd00::/8",
    );
}

#[test]
fn storage() {
    let volume = json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain", "claimRef": {"namespace": "d", "name": "c"}, "storageClassName": "s",
        "volumeMode": "Filesystem"}, "status": {"phase": "Bound"}});
    check("", "PersistentVolume", volume.clone(), "1Gi | RWO,RWX | Retain | Bound | d/c | s | <unset> |  | Filesystem");
    let mut deleted = volume;
    deleted["metadata"] = json!({"deletionTimestamp": NOW});
    check("", "PersistentVolume", deleted, "1Gi | RWO,RWX | Retain | Terminating | d/c | s | <unset> |  | Filesystem");
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "s", "volumeMode": "Block"}, "status": {"phase": "Pending"}}),
        "Pending |  |  |  | s | <unset> | Block",
    );
    check(
        "",
        "PersistentVolumeClaim",
        json!({"spec": {"volumeName": "v", "volumeAttributesClassName": "gold"}, "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOncePod"]}}),
        "Bound | v | 2Gi | RWOP |  | gold | <unset>",
    );
    check(
        "storage.k8s.io",
        "StorageClass",
        json!({"provisioner": "p", "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate", "allowVolumeExpansion": true}),
        "p | Delete | Immediate | true",
    );
    check(
        "storage.k8s.io",
        "VolumeAttachment",
        json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}, "status": {"attached": true}}),
        "a | v | n | true",
    );
    check("storage.k8s.io", "CSINode", json!({"spec": {"drivers": [{}, {}]}}), "2");
    let class = cells(
        "storage.k8s.io",
        "StorageClass",
        json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}}),
    );
    assert_eq!(class[0], "x (default)");
}

#[test]
fn nodes_and_the_rest() {
    let node = |spec: Value, conditions: Value| {
        json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "b"}},
        "spec": spec, "status": {"conditions": conditions, "nodeInfo": {"kubeletVersion": "v1.36.0"}, "addresses": [{"type": "InternalIP", "address": "1.1.1.1"}]}})
    };
    let tail = "b,control-plane | v1.36.0 | 1.1.1.1 | <none> | <unknown> | <unknown> | <unknown>";
    let ready = |status: &str| json!([{"type": "Ready", "status": status}]);
    check("", "Node", node(json!({}), ready("True")), &format!("Ready | {tail}"));
    check("", "Node", node(json!({}), ready("False")), &format!("NotReady | {tail}"));
    check(
        "",
        "Node",
        node(json!({"unschedulable": true}), ready("Unknown")),
        &format!("NotReady,SchedulingDisabled | {tail}"),
    );
    check("", "Node", node(json!({}), json!([])), &format!("Unknown | {tail}"));
    check("", "Namespace", json!({"status": {"phase": "Terminating"}}), "Terminating");
    check("", "ConfigMap", json!({"data": {"a": ""}, "binaryData": {"b": ""}}), "2");
    check("", "Secret", json!({"type": "Opaque", "data": {"a": ""}}), "Opaque | 1");
    check(
        "",
        "ResourceQuota",
        json!({"status": {"hard": {"limits.cpu": "2", "pods": "5", "requests.cpu": "1"}, "used": {"pods": "1"}}}),
        "pods: 1/5, requests.cpu: 0/1 | limits.cpu: 0/2",
    );
    check(
        "",
        "Event",
        json!({"type": "Warning", "reason": "R", "message": "m\n", "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"},
        "source": {"component": "kubelet", "host": "n"}, "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:50Z", "count": 3}),
        "10s | Warning | R | pod/p | f | kubelet, n | m | 60s | 3",
    );
    check(
        "",
        "Event",
        json!({"type": "Normal", "reason": "R", "message": "m", "involvedObject": {"kind": "Pod", "name": "p"}, "reportingComponent": "c",
        "eventTime": "2026-01-01T00:00:30.000000Z", "series": {"count": 7, "lastObservedTime": "2026-01-01T00:00:55.000000Z"}}),
        "5s | Normal | R | pod/p |  | c | m | 30s | 7",
    );
    let csr = |conditions: Value, certificate: Value| json!({"spec": {"signerName": "s", "username": "u"}, "status": {"conditions": conditions, "certificate": certificate}});
    check("certificates.k8s.io", "CertificateSigningRequest", csr(json!([]), Value::Null), "s | u | <none> | Pending");
    check(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        csr(json!([{"type": "Approved"}]), json!("QQ==")),
        "s | u | <none> | Approved,Issued",
    );
    check(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        csr(json!([{"type": "Denied"}]), Value::Null),
        "s | u | <none> | Denied",
    );
    check(
        "certificates.k8s.io",
        "CertificateSigningRequest",
        csr(json!([{"type": "Approved"}, {"type": "Failed"}]), Value::Null),
        "s | u | <none> | Approved,Failed",
    );
    check("coordination.k8s.io", "Lease", json!({"spec": {"holderIdentity": "h"}}), "h");
    check("scheduling.k8s.io", "PriorityClass", json!({"value": 5, "preemptionPolicy": "Never"}), "5 | false | Never");
    check(
        "rbac.authorization.k8s.io",
        "RoleBinding",
        json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"},
        {"kind": "Group", "name": "g"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}]}),
        "Role/r | u | g | n/s",
    );
    check(
        "apps",
        "ControllerRevision",
        json!({"revision": 3, "metadata": {"ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": true}]}}),
        "daemonset.apps/d | 3",
    );
    check(
        "flowcontrol.apiserver.k8s.io",
        "FlowSchema",
        json!({"spec": {"matchingPrecedence": 7, "priorityLevelConfiguration": {"name": "p"}}}),
        "p | 7 | <none> | ?",
    );
    check(
        "resource.k8s.io",
        "ResourceSlice",
        json!({"spec": {"driver": "d", "pool": {"name": "p"}}}),
        "<unset> | d | p",
    );
}

#[test]
fn autoscalers() {
    let of = |metrics: Value, current: Value| {
        json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"}, "minReplicas": 1, "maxReplicas": 5, "metrics": metrics},
        "status": {"currentReplicas": 2, "currentMetrics": current}})
    };
    let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}});
    let check = |metrics: Value, current: Value, expected: &str| {
        let v2 = orkd_api::kinds::all()
            .into_iter()
            .find(|k| k.info().group == "autoscaling" && k.info().version == "v2")
            .expect("v2");
        let cells = v2.cells(&of(metrics, current), NOW.parse().expect("a time"));
        assert_eq!(cells[1..6], [json!("Deployment/d"), json!(expected), json!("1"), json!(5), json!(2)]);
    };
    check(json!([]), json!([]), "<none>");
    check(json!([cpu]), json!([]), "cpu: <unknown>/80%");
    check(
        json!([cpu]),
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10, "averageValue": "5m"}}}]),
        "cpu: 10%/80%",
    );
    let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"averageValue": "1Gi"}}});
    check(json!([cpu, memory, cpu]), json!([]), "cpu: <unknown>/80%, memory: <unknown>/1Gi + 1 more...");
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "10"}}});
    check(json!([pods]), json!([{"type": "Pods", "pods": {"current": {"averageValue": "7"}}}]), "7/10");
    let external = json!({"type": "External", "external": {"metric": {"name": "m"}, "target": {"value": "10"}}});
    check(json!([external]), json!([]), "<unknown>/10");
}
