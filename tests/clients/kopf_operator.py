"""An operator of kopf: a Crew has a Deployment, tells in its status how many row, and leaves a log when it goes.

It is not called operator.py: Python would take it for its own module in every script beside it.
"""
import kopf
import kubernetes_asyncio as kubernetes


MERGE = "application/merge-patch+json"


async def api():
    await kubernetes.config.load_kube_config()
    return kubernetes.client.ApiClient()


def manifest(name, namespace, rowers):
    labels = {"crew": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": rowers,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "rower", "image": "example.com/rower"}]},
            },
        },
    }


@kopf.on.create("crews.sea.example.com", backoff=1)
async def created(spec, name, namespace, body, **_):
    deployment = manifest(name, namespace, spec["rowers"])
    kopf.adopt(deployment, owner=body)
    async with await api() as client:
        made = await kubernetes.client.AppsV1Api(client).create_namespaced_deployment(namespace, deployment)
    kopf.event(body, type="Normal", reason="Manned", message=f"{name} has a deployment")
    return {"deployment": made.metadata.uid}


@kopf.on.update("crews.sea.example.com", field="spec.rowers", backoff=1)
async def changed(new, name, namespace, **_):
    async with await api() as client:
        apps = kubernetes.client.AppsV1Api(client)
        wish = {"spec": {"replicas": new}}
        await apps.patch_namespaced_deployment_scale(name, namespace, wish, _content_type=MERGE)


@kopf.on.field("deployments.v1.apps", field="spec.replicas", backoff=1)
async def counted(new, name, namespace, meta, **_):
    owners = [o for o in meta.get("ownerReferences", []) if o["kind"] == "Crew"]
    if not owners:
        return
    async with await api() as client:
        objects = kubernetes.client.CustomObjectsApi(client)
        crew = ("sea.example.com", "v1", namespace, "crews", owners[0]["name"])
        await objects.patch_namespaced_custom_object_status(*crew, {"status": {"rowers": new}}, _content_type=MERGE)


@kopf.on.delete("crews.sea.example.com", backoff=1)
async def deleted(name, namespace, status, **_):
    log = {"metadata": {"name": f"{name}-log"}, "data": {"rowers": str(status.get("rowers"))}}
    async with await api() as client:
        await kubernetes.client.CoreV1Api(client).create_namespaced_config_map(namespace, log)
