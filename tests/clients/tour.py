"""A tour of the official Python client (PyPI `kubernetes`) against a running server.

Usage: tour.py KUBECONFIG [POD-IMAGE]. Every step asserts; the names of the steps are printed. With an image, a pod is
run, and its log, exec and port-forward are visited.
"""

import base64
import datetime
import sys
import threading
import time

from kubernetes import client, config, dynamic, stream, utils, watch
from kubernetes.client.rest import ApiException

KUBECONFIG = sys.argv[1]
IMAGE = sys.argv[2] if len(sys.argv) > 2 else None
NS = "python-tour"

config.load_kube_config(KUBECONFIG)
api = client.ApiClient()
core, apps, batch = client.CoreV1Api(), client.AppsV1Api(), client.BatchV1Api()
rbac, coordination, net = client.RbacAuthorizationV1Api(), client.CoordinationV1Api(), client.NetworkingV1Api()


def step(f):
    f()
    print("ok", f.__name__, flush=True)


def refused(status, reason, f, *args, **kwargs):
    try:
        f(*args, **kwargs)
    except ApiException as e:
        import json

        body = json.loads(e.body)
        assert (e.status, body["kind"], body["reason"]) == (status, "Status", reason), (e.status, e.body)
        return body
    raise AssertionError(f"{f} is not refused with {reason}")


def eventually(what, probe, limit=60):
    end = time.monotonic() + limit
    while True:
        seen = probe()
        if seen:
            return seen
        assert time.monotonic() < end, f"{what}: {seen!r}"
        time.sleep(0.1)


@step
def discovery():
    version = client.VersionApi().get_code()
    assert version.git_version.startswith("v1.36."), version
    groups = {g.name for g in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= groups, groups
    names = {r.name for r in core.get_api_resources().resources}
    assert {"pods", "pods/log", "configmaps"} <= names


@step
def namespace():
    ns = core.create_namespace({"metadata": {"name": NS}})
    assert ns.status.phase == "Active" and ns.metadata.labels["kubernetes.io/metadata.name"] == NS
    eventually("the default account", lambda: [
        a for a in core.list_namespaced_service_account(NS).items if a.metadata.name == "default"])


@step
def create_and_read():
    made = core.create_namespaced_config_map(
        NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one", labels={"tour": "yes"}), data={"a": "1"},
                               binary_data={"b": base64.b64encode(b"\x00\xff").decode()}))
    assert isinstance(made.metadata.creation_timestamp, datetime.datetime)
    read = core.read_namespaced_config_map("one", NS)
    assert read.to_dict() == made.to_dict()
    dry = core.create_namespaced_config_map(
        NS, client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="x-")), dry_run="All")
    assert dry.metadata.name.startswith("x-") and len(dry.metadata.name) == 7
    refused(409, "AlreadyExists", core.create_namespaced_config_map, NS, {"metadata": {"name": "one"}})
    body = refused(404, "NotFound", core.read_namespaced_config_map, "none", NS)
    assert body["details"] == {"name": "none", "kind": "configmaps"}, body
    body = refused(422, "Invalid", core.create_namespaced_config_map, NS, {"metadata": {"name": "A_"}})
    assert body["details"]["causes"][0]["field"] == "metadata.name"


@step
def lists():
    for i in range(7):
        core.create_namespaced_config_map(NS, {"metadata": {"name": f"l{i}", "labels": {"n": str(i % 2)}}})
    assert len(core.list_namespaced_config_map(NS, label_selector="n in (0,1),n!=1").items) == 4
    assert len(core.list_namespaced_config_map(NS, field_selector="metadata.name=l3").items) == 1
    names, token, pages = [], None, 0
    while True:
        page = core.list_namespaced_config_map(NS, label_selector="n", limit=3, _continue=token)
        names += [o.metadata.name for o in page.items]
        pages, token = pages + 1, page.metadata._continue
        if not token:
            break
    assert names == [f"l{i}" for i in range(7)] and pages == 3, (names, pages)
    page = core.list_namespaced_config_map(NS, limit=1)
    assert page.metadata.remaining_item_count == len(core.list_namespaced_config_map(NS).items) - 1
    body = refused(504, "Timeout", core.list_namespaced_config_map, NS, resource_version="999999999")
    assert body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge", body


@step
def watches():
    start = core.list_namespaced_config_map(NS).metadata.resource_version
    seen = []

    def follow():
        for event in watch.Watch().stream(core.list_namespaced_config_map, NS, resource_version=start,
                                          label_selector="w=yes", timeout_seconds=30):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                break

    thread = threading.Thread(target=follow)
    thread.start()
    core.create_namespaced_config_map(NS, {"metadata": {"name": "w", "labels": {"w": "yes"}}})
    core.patch_namespaced_config_map("w", NS, {"data": {"k": "v"}})
    core.create_namespaced_config_map(NS, {"metadata": {"name": "unseen"}})
    core.patch_namespaced_config_map("w", NS, {"metadata": {"labels": {"w": None}}})
    thread.join(30)
    assert seen == [("ADDED", "w"), ("MODIFIED", "w"), ("DELETED", "w")], seen
    # From the state as it is, ended by time.
    begun = [e["object"].metadata.name for e in watch.Watch().stream(
        core.list_namespaced_config_map, NS, field_selector="metadata.name=one", timeout_seconds=1)]
    assert begun == ["one"], begun


@step
def updates():
    old = core.read_namespaced_config_map("one", NS)
    new = core.read_namespaced_config_map("one", NS)
    new.data = {"a": "2"}
    replaced = core.replace_namespaced_config_map("one", NS, new)
    assert replaced.metadata.resource_version != old.metadata.resource_version
    old.data = {"a": "3"}
    refused(409, "Conflict", core.replace_namespaced_config_map, "one", NS, old)
    new.data, new.immutable, new.metadata.resource_version = {"a": "4"}, True, None
    core.replace_namespaced_config_map("one", NS, new)
    body = refused(422, "Invalid", core.patch_namespaced_config_map, "one", NS, {"data": {"a": "5"}})
    assert "immutable" in body["message"], body


DEPLOYMENT = {
    "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
    "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "d"}}, "template": {
        "metadata": {"labels": {"app": "d"}},
        "spec": {"containers": [{"name": "a", "image": "example.com/a:1"}, {"name": "b", "image": "example.com/b:1"}]}}}}


@step
def patches():
    apps.create_namespaced_deployment(NS, DEPLOYMENT)

    def patch(content_type, body, **kwargs):
        return apps.patch_namespaced_deployment("d", NS, body, _content_type=content_type, **kwargs)

    # A list of containers is merged by name.
    d = patch("application/strategic-merge-patch+json",
              {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "example.com/a:2"}]}}}})
    assert [c.image for c in d.spec.template.spec.containers] == ["example.com/a:2", "example.com/b:1"]
    d = patch("application/strategic-merge-patch+json",
              {"spec": {"template": {"spec": {"containers": [{"name": "b", "$patch": "delete"}]}}}})
    assert [c.name for c in d.spec.template.spec.containers] == ["a"]
    d = patch("application/json-patch+json", [
        {"op": "test", "path": "/spec/replicas", "value": 0}, {"op": "add", "path": "/spec/paused", "value": True}])
    assert d.spec.paused is True
    d = patch("application/merge-patch+json", {"spec": {"paused": None}, "metadata": {"annotations": {"k": "v"}}})
    assert not d.spec.paused and d.metadata.annotations["k"] == "v"
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 0,
               "minReadySeconds": 3}}
    d = patch("application/apply-patch+yaml", applied, field_manager="python", force=True)
    assert d.spec.min_ready_seconds == 3
    assert any(m.manager == "python" and m.operation == "Apply" for m in d.metadata.managed_fields)
    applied["spec"]["minReadySeconds"] = 4
    body = None
    try:
        patch("application/apply-patch+yaml", applied, field_manager="other")
    except ApiException as e:
        body = e
    assert body is not None and body.status == 409 and "python" in body.body, body
    scale = apps.patch_namespaced_deployment_scale("d", NS, {"spec": {"replicas": 0}})
    assert scale.kind == "Scale" and not scale.spec.replicas, scale


@step
def dynamic_client():
    dyn = dynamic.DynamicClient(api)
    leases = dyn.resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
    body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "dyn"},
            "spec": {"holderIdentity": "a"}}
    made = leases.server_side_apply(body=body, namespace=NS, field_manager="dyn")
    assert made.spec.holderIdentity == "a"
    made = leases.patch(body={"spec": {"holderIdentity": "b"}}, name="dyn", namespace=NS,
                        content_type="application/merge-patch+json")
    assert made.spec.holderIdentity == "b"
    assert [i.metadata.name for i in leases.get(namespace=NS).items] == ["dyn"]
    leases.delete(name="dyn", namespace=NS)


@step
def many_kinds():
    utils.create_from_dict(api, {"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"p": "q"}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "svc"}, "spec": {"ports": [{"port": 80}]}},
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cj"}, "spec": {
            "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": {"spec": {
                "restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}}}}}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"}, "spec": {
            "defaultBackend": {"service": {"name": "svc", "port": {"number": 80}}}}},
    ]}, namespace=NS)
    assert base64.b64decode(core.read_namespaced_secret("s", NS).data["p"]) == b"q"
    assert core.read_namespaced_service("svc", NS).spec.cluster_ip
    assert batch.read_namespaced_cron_job("cj", NS).spec.concurrency_policy == "Allow"
    assert net.read_namespaced_ingress("i", NS).spec.default_backend.service.port.number == 80
    review = client.AuthorizationV1Api().create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "create", "resource": "pods", "namespace": NS}}})
    assert review.status.allowed
    token = core.create_namespaced_service_account_token("default", NS, {"spec": {"audiences": [],
                                                                                "expirationSeconds": 600}})
    assert token.status.token.count(".") == 2


@step
def deletes():
    gone = api.sanitize_for_serialization(core.delete_namespaced_config_map("l0", NS))
    assert gone["status"] == "Success" and gone["details"]["name"] == "l0", gone
    core.delete_collection_namespaced_config_map(NS, label_selector="n")
    assert not core.list_namespaced_config_map(NS, label_selector="n").items
    old = core.read_namespaced_config_map("one", NS)
    refused(409, "Conflict", core.delete_namespaced_config_map, "one", NS,
            body=client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="wrong")))
    core.delete_namespaced_config_map("one", NS, body=client.V1DeleteOptions(
        preconditions=client.V1Preconditions(uid=old.metadata.uid), propagation_policy="Foreground"))


def run(name, script, **more):
    body = {"metadata": {"name": name, "labels": {"app": name}}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{
            "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", script]}], **more}}
    core.create_namespaced_pod(NS, body)


if IMAGE:

    @step
    def log():
        run("talk", "echo one; echo two; exec sleep 1000")
        eventually("the pod", lambda: core.read_namespaced_pod("talk", NS).status.phase == "Running")
        eventually("the log", lambda: core.read_namespaced_pod_log("talk", NS) == "one\ntwo\n")
        assert core.read_namespaced_pod_log("talk", NS, tail_lines=1) == "two\n"
        run("brief", "for i in 1 2 3; do echo $i; sleep 0.2; done", restartPolicy="Never")
        eventually("the pod", lambda: core.read_namespaced_pod("brief", NS).status.phase != "Pending")
        lines = list(watch.Watch().stream(core.read_namespaced_pod_log, "brief", NS))
        assert lines == ["1", "2", "3"], lines
        eventually("the end", lambda: core.read_namespaced_pod("brief", NS).status.phase == "Succeeded")

    @step
    def exec():
        def call(*command, **kwargs):
            return stream.stream(core.connect_get_namespaced_pod_exec, "talk", NS, command=list(command), stderr=True,
                                 stdin=kwargs.pop("stdin", False), stdout=True, tty=False, **kwargs)

        assert call("sh", "-c", "echo out; echo err >&2") in ("out\nerr\n", "err\nout\n")
        session = call("sh", stdin=True, _preload_content=False)
        session.write_stdin("echo typed\n")
        assert session.readline_stdout(timeout=10) == "typed"
        session.write_stdin("exit 3\n")
        session.run_forever(timeout=10)
        assert session.returncode == 3, session.returncode
        session.close()

    @step
    def port_forward():
        run("www", "mkdir /www; echo forwarded > /www/index.html; exec httpd -f -p 8080 -h /www")
        eventually("the pod", lambda: core.read_namespaced_pod("www", NS).status.phase == "Running")

        def fetch():
            forward = stream.portforward(core.connect_get_namespaced_pod_portforward, "www", NS, ports="8080")
            socket = forward.socket(8080)
            socket.setblocking(True)
            socket.settimeout(10)
            socket.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            data = b""
            while True:
                more = socket.recv(4096)
                if not more:
                    break
                data += more
            return b"forwarded" in data

        eventually("an answer through the tunnel", fetch)

    @step
    def eviction_and_end():
        core.create_namespaced_pod_eviction("www", NS, {"metadata": {"name": "www"}})
        eventually("the eviction", lambda: all(p.metadata.name != "www" for p in core.list_namespaced_pod(NS).items))
        core.delete_namespaced_pod("talk", NS, grace_period_seconds=0)


@step
def end():
    core.delete_namespace(NS)
    eventually("the namespace to be gone", lambda: all(n.metadata.name != NS for n in core.list_namespace().items))


print("done")
