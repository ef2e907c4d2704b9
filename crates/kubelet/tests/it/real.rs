//! Pod workers on a containerd of their own: needs root, containerd, runc and a static busybox. Pods are in the host's
//! network here; the pod network has its own tests.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orkd_cri::{ImageService, RuntimeService};
use orkd_kubelet::cgroup::Cgroups;
use orkd_kubelet::containerd::pause::{self, Arch};
use orkd_kubelet::containerd::{Options, Supervised};
use serde_json::json;

use crate::harness::{node, run, state};

const IMAGE: &str = "localhost/busybox:1";

/// Why this machine cannot run the test.
fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    ["/usr/bin/containerd", "/usr/sbin/runc", "/bin/busybox"].into_iter().find(|p| !Path::new(p).exists())
}

fn options(dir: &Path) -> Options {
    let mut options = Options::under(&dir.join("data"), &dir.join("run"));
    options.cni_conf_dir = dir.join("cni");
    options.registry_config_dir = dir.join("certs.d");
    options
}

async fn pid_of(client: &orkd_cri::Client, name: &str) -> i64 {
    let labels = HashMap::from([("io.kubernetes.container.name".to_owned(), name.to_owned())]);
    let containers = client.list_containers(labels).await.expect("containers");
    let running = containers.iter().find(|c| c.state == 1).expect("one that runs");
    let status = client.container_status_verbose(&running.id).await.expect("a status");
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).expect("info");
    info["pid"].as_i64().expect("a pid")
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_run_under_a_supervised_containerd() {
    if let Some(why) = missing() {
        println!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let supervised = Supervised::start(options(dir.path())).await.expect("containerd");
    let client = supervised.client();
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    let config = json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/busybox", "sh"]});
    let layer = pause::tar(&[("bin/", 0o755, b""), ("bin/busybox", 0o755, &busybox), ("tmp/", 0o777, b"")]);
    let image = pause::image_of(Arch::host().expect("a known processor"), layer, &config);
    client.import_image(&image, &[IMAGE.to_owned()], &BTreeMap::new()).await.expect("an import");
    let images = client.list_images().await.expect("images");
    assert!(images.iter().any(|i| i.repo_tags.iter().any(|t| t == pause::IMAGE)), "{images:?}");

    let root = format!("orkd-test-{}", std::process::id());
    let cgroups = Cgroups::new(&root);
    cgroups.create_classes().expect("cgroups");
    let files = dir.path().join("node");
    let cx = node(Arc::new(client.clone()), Some(&files), Some(cgroups.clone()));
    let script = "trap 'echo bye; exit 0' TERM; echo colour $COLOUR in $(/bin/busybox cat /config/colour); \
                  echo done > /dev/termination-log; while true; do /bin/busybox sleep 0.05; done";
    let spec = json!({
        "hostNetwork": true,
        "containers": [{
            "name": "app", "image": IMAGE, "imagePullPolicy": "Never",
            "command": ["/bin/busybox", "sh", "-c", script],
            "env": [{"name": "COLOUR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "colour"}}}],
            "volumeMounts": [{"name": "config", "mountPath": "/config"}, {"name": "scratch", "mountPath": "/scratch"}],
            "resources": {"requests": {"cpu": "10m"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"exec": {"command": ["/bin/busybox", "true"]}},
        }],
        "volumes": [{"name": "config", "configMap": {"name": "settings"}}, {"name": "scratch", "emptyDir": {}}],
    });
    let began = Instant::now();
    let pod = run(&cx, "11111111-0000-4000-8000-000000000001", spec.clone()).await;
    pod.ready().await;
    println!("first pod ready after {:?}", began.elapsed());
    let log = files.join("logs/default_p_11111111-0000-4000-8000-000000000001/app/0.log");
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = orkd_kubelet::logs::tail_of(&log, 10, 1000);
        if text.contains("colour blue in blue") {
            break;
        }
        assert!(Instant::now() < deadline, "log: {text:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = client
        .exec_sync(
            &client.list_containers(HashMap::new()).await.expect("containers")[0].id,
            ["/bin/busybox", "sh", "-c", "echo $COLOUR; exit 3"].map(str::to_owned).to_vec(),
            5,
        )
        .await
        .expect("exec");
    assert_eq!((answer.exit_code, answer.stdout.as_slice()), (3, b"blue\n".as_slice()));

    // A second of its kind, measured.
    let began = Instant::now();
    let second = run(&cx, "11111111-0000-4000-8000-000000000002", spec).await;
    second.ready().await;
    println!("second pod ready after {:?}", began.elapsed());
    second.delete(1).await;

    // The kubelet restarts, and containerd is found again: the process stays.
    let before = pid_of(&client, "app").await;
    let spec = serde_json::to_value(pod.handle.pod().spec.clone()).expect("a spec");
    pod.forget().await;
    let daemon = supervised.pid();
    drop(supervised);
    let supervised = Supervised::start(options(dir.path())).await.expect("containerd again");
    assert!(supervised.adopted());
    assert_eq!(supervised.pid(), daemon);
    let cx = node(Arc::new(client.clone()), Some(&files), Some(cgroups.clone()));
    let pod = run(&cx, "11111111-0000-4000-8000-000000000001", spec).await;
    pod.ready().await;
    assert_eq!(pid_of(&client, "app").await, before);

    // A killed process is started again.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(before).expect("a pid")),
        nix::sys::signal::Signal::SIGKILL,
    )
    .expect("a kill");
    let status = pod
        .until("restarted", |s| {
            state(s) == "running" && s.container_statuses.iter().flatten().any(|c| c.restart_count == 1)
        })
        .await;
    let last = status.container_statuses.iter().flatten().next().and_then(|c| c.last_state.clone());
    let last = last.and_then(|s| s.terminated).unwrap_or_default();
    assert_eq!((last.exit_code, last.message.as_deref()), (137, Some("done\n")));
    pod.delete(5).await;
    let left = client.list_pod_sandboxes(HashMap::new()).await.expect("sandboxes");
    assert!(left.is_empty(), "{left:?}");
    supervised.stop().await;
}
