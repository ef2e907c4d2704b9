//! `kube`, the Rust client: create, list, watch, every patch, apply, exec and log.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{AsyncBufReadExt, StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, ResourceExt};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::IMAGE;

#[test]
fn kube_tours_api_and_node() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let kubeconfig = cluster.kubeconfig();
    let done = cluster.machine.inside(move || async move {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
        let client = Client::try_from(config)?;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &object(json!({"metadata": {"name": "tour"}}))?).await?;
        tokio::time::timeout(Duration::from_secs(30), objects(&client)).await.context("objects")??;
        tokio::time::timeout(Duration::from_secs(30), patches(&client)).await.context("patches")??;
        tokio::time::timeout(Duration::from_secs(90), pods(&client)).await.context("pods")??;
        Ok(())
    });
    done.with_context(|| cluster.log())
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T> {
    Ok(serde_json::from_value(value)?)
}

async fn objects(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "tour");
    let version = maps.list(&ListParams::default()).await?.metadata.resource_version.context("a version")?;
    for i in 0..5 {
        let map = json!({"metadata": {"name": format!("m{i}"), "labels": {"n": "yes"}}, "data": {"i": i.to_string()}});
        maps.create(&PostParams::default(), &object(map)?).await?;
    }
    let page = maps.list(&ListParams::default().labels("n=yes").limit(2)).await?;
    ensure!(page.items.len() == 2 && page.metadata.continue_.is_some());
    let rest = ListParams::default().labels("n=yes").continue_token(&page.metadata.continue_.unwrap_or_default());
    assert_eq!(maps.list(&rest).await?.items.len(), 3);
    assert_eq!(maps.list_metadata(&ListParams::default().labels("n=yes")).await?.items.len(), 5);
    let again = maps.create(&PostParams::default(), &object(json!({"metadata": {"name": "m0"}}))?).await;
    ensure!(matches!(&again, Err(kube::Error::Api(s)) if s.code == 409 && s.reason == "AlreadyExists"), "{again:?}");
    let mut stale = maps.get("m1").await?;
    stale.metadata.resource_version = Some(version.clone());
    let conflict = maps.replace("m1", &PostParams::default(), &stale).await;
    ensure!(matches!(&conflict, Err(kube::Error::Api(s)) if s.reason == "Conflict"), "{conflict:?}");

    maps.delete("m4", &DeleteParams::default()).await?;
    let mut seen = Vec::new();
    let mut events = maps.watch(&WatchParams::default().labels("n=yes").timeout(20), &version).await?.boxed();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(o) => seen.push(format!("+{}", o.name_any())),
            WatchEvent::Deleted(o) => {
                seen.push(format!("-{}", o.name_any()));
                break;
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!(seen, ["+m0", "+m1", "+m2", "+m3", "+m4", "-m4"]);
    // The streaming list: what stands, then a bookmark that says so.
    let mut events = maps.watch(&WatchParams::default().labels("n=yes").initial_events(), "0").await?.boxed();
    let mut initial = 0;
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(_) => initial += 1,
            WatchEvent::Bookmark(mark) => {
                ensure!(mark.metadata.annotations.contains_key("k8s.io/initial-events-end"));
                break;
            }
            other => anyhow::bail!("{other:?}"),
        }
    }
    assert_eq!(initial, 4);
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("n=yes")).await?;
    ensure!(maps.list(&ListParams::default().labels("n=yes")).await?.items.is_empty());
    Ok(())
}

async fn patches(client: &Client) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "tour");
    let apply = |image: &str, replicas: i32| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": replicas,
            "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec":
            {"containers": [{"name": "c", "image": image}]}}}})
    };
    let mine = PatchParams::apply("me");
    let made = deployments.patch("d", &mine, &Patch::Apply(apply("x:1", 0))).await?;
    assert_eq!(made.metadata.generation, Some(1));
    let other = deployments.patch("d", &PatchParams::apply("you"), &Patch::Apply(apply("x:2", 0))).await;
    ensure!(matches!(&other, Err(kube::Error::Api(s)) if s.code == 409 && s.message.contains("\"me\"")), "{other:?}");
    let forced = deployments.patch("d", &PatchParams::apply("you").force(), &Patch::Apply(apply("x:2", 0))).await?;
    ensure!(forced.managed_fields().iter().any(|m| m.manager.as_deref() == Some("you")));
    let strategic = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "env":
        [{"name": "A", "value": "b"}]}]}}}});
    let d = deployments.patch("d", &PatchParams::default(), &Patch::Strategic(strategic)).await?;
    let containers = d.spec.and_then(|s| s.template.spec).context("a spec")?.containers;
    ensure!(containers[0].image.as_deref() == Some("x:2") && containers[0].env.is_some(), "{containers:?}");
    let merge = json!({"metadata": {"labels": {"k": "v"}}, "spec": {"paused": true}});
    let d = deployments.patch("d", &PatchParams::default(), &Patch::Merge(merge)).await?;
    ensure!(d.labels().contains_key("k"));
    let body = json!({"status": {"observedGeneration": 99}});
    let d = deployments.patch_status("d", &PatchParams::default(), &Patch::Merge(body)).await?;
    ensure!(d.labels().contains_key("k"), "the rest stays");
    let scale = deployments.get_scale("d").await?;
    ensure!(scale.spec.is_some());
    deployments.delete("d", &DeleteParams::background()).await?;
    Ok(())
}

async fn pods(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "tour");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"terminationGracePeriodSeconds": 1, "containers": [
        {"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
         "command": ["sh", "-c", "echo one; echo two; exec sleep 1000"]}]}});
    // The account may not be there yet, as upstream.
    loop {
        match pods.create(&PostParams::default(), &object(pod.clone())?).await {
            Err(kube::Error::Api(s)) if s.code == 403 => tokio::time::sleep(Duration::from_millis(50)).await,
            other => break other.map(|_| ())?,
        }
    }
    let mut events = pods.watch(&WatchParams::default().fields("metadata.name=p"), "0").await?.boxed();
    while let Some(event) = events.try_next().await? {
        let (WatchEvent::Added(pod) | WatchEvent::Modified(pod)) = event else { continue };
        if pod.status.and_then(|s| s.phase).as_deref() == Some("Running") {
            break;
        }
    }
    let mut lines = pods.log_stream("p", &LogParams { follow: true, ..LogParams::default() }).await?.lines();
    assert_eq!(lines.try_next().await?.as_deref(), Some("one"));
    assert_eq!(lines.try_next().await?.as_deref(), Some("two"));
    assert_eq!(pods.logs("p", &LogParams { tail_lines: Some(1), ..LogParams::default() }).await?, "two\n");

    let attach = AttachParams::default().stdin(true).stderr(false);
    let mut session = pods.exec("p", ["sh", "-c", "read line; echo got $line; exit 4"], &attach).await?;
    let (stdin, stdout) = (session.stdin(), session.stdout());
    let status = session.take_status().context("a status")?;
    stdin.context("stdin")?.write_all(b"typed\n").await?;
    let mut text = String::new();
    stdout.context("stdout")?.read_to_string(&mut text).await?;
    assert_eq!(text, "got typed\n");
    let status = status.await.context("the command's end")?;
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    session.join().await?;
    pods.delete("p", &DeleteParams::default().grace_period(0)).await?;
    Ok(())
}
