//! An operator written with kopf (`tests/clients/kopf_operator.py`): custom resources, finalizers, adoption, events,
//! status and scale, by the requests that its authors chose.

use std::time::Duration;

use anyhow::{Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::kubectl::Kubectl;
use orkd_tests::{eventually, is_root};

use super::python::python;

const LIMIT: Duration = Duration::from_secs(90);

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crews.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: crews, singular: crew, kind: Crew}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {rowers: {type: integer, minimum: 1}}}
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
";

const CREW: &str = "
apiVersion: sea.example.com/v1
kind: Crew
metadata: {name: eight}
spec: {rowers: 8}
";

/// Waits until a question of kubectl has an answer.
fn becomes(k: &Kubectl<'_>, line: &str, wanted: &str) -> Result<()> {
    eventually(line, LIMIT, || match k.ok(line) {
        Ok(answer) if answer == wanted => Ok(()),
        Ok(answer) => Err(answer),
        Err(error) => Err(error.to_string()),
    })
}

#[test]
fn an_operator_of_kopf_runs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(python) = python(&["kopf", "kubernetes_asyncio"])? else { return Ok(()) };
    let cluster = Cluster::control_plane(&[])?;
    let k = cluster.kubectl()?;
    k.apply(DEFINITION)?;
    k.ok("wait --for=condition=Established crd/crews.sea.example.com --timeout=60s")?;
    let script = orkd_tests::root().join("tests/clients/kopf_operator.py").display().to_string();
    let environment = format!("KUBECONFIG={}", cluster.kubeconfig().display());
    let run = [&environment, &python.display().to_string(), "-m", "kopf", "run", "-A", "--verbose", &script];
    let mut operator = cluster.machine.spawn("/usr/bin/env".as_ref(), &run.map(str::to_owned), "operator.log")?;
    let done = tour(&k);
    ensure!(!operator.has_ended(), "the operator ended: {}", operator.tail(40));
    done.map_err(|error| error.context(operator.tail(60)).context(cluster.log()))
}

fn tour(k: &Kubectl<'_>) -> Result<()> {
    k.apply(CREW)?;
    becomes(k, "get deployment eight -o jsonpath={.spec.replicas}", "8")?;
    becomes(k, "get crew eight -o jsonpath={.status.rowers}", "8")?;
    becomes(k, "get crew eight -o jsonpath={.metadata.finalizers[*]}", "kopf.zalando.org/KopfFinalizerMarker")?;
    becomes(k, "get events --field-selector reason=Manned -o jsonpath={.items[*].message}", "eight has a deployment")?;
    let (uid, noted) = ("{.metadata.uid}", "{.status.created.deployment}");
    let uid = k.ok(&format!("get deployment eight -o jsonpath={uid}"))?;
    becomes(k, &format!("get crew eight -o jsonpath={noted}"), &uid)?;

    k.apply(&CREW.replace("rowers: 8", "rowers: 2"))?;
    becomes(k, "get deployment eight -o jsonpath={.spec.replicas}", "2")?;
    becomes(k, "get crew eight -o jsonpath={.status.rowers}", "2")?;

    // The finalizer holds it until the operator has written its log; the deployment goes with its owner.
    k.ok("delete crew eight --timeout=60s")?;
    assert_eq!(k.ok("get configmap eight-log -o jsonpath={.data.rowers}")?, "2");
    becomes(k, "get deployments -o name", "")
}
