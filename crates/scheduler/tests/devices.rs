//! Devices, from their slices to the pods that use them: the scheduler against the API server, in one process. The claim
//! controller and the drivers are played.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_base::{Supervisor, TaskKind};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_reconcile::{Api, DeleteOptions, Informers, Patch, Target};
use orkd_store::backends::embedded;
use serde_json::{Value, json};

const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
const PODS: &str = "/api/v1/namespaces/default/pods";

struct World {
    api: Api,
    server: ApiServer,
    supervisor: Supervisor,
    _guard: Guard,
    _dir: tempfile::TempDir,
}

impl World {
    /// An API server, the class `gpu`, nodes `a` and `b`, and the scheduler.
    async fn new() -> World {
        let dir = tempfile::tempdir().expect("a directory");
        let pki = ClusterPki::load_or_create(&dir.path().join("pki"), ServerNames::default(), jiff::Timestamp::now());
        let pki = pki.expect("pki");
        let store = embedded::Embedded::open(dir.path().join("db"), embedded::Options::default()).expect("a store");
        let kinds = orkd_api::kinds::all().into_iter().map(Arc::from).collect();
        let caches = Caches::open(Arc::new(store), kinds).await.expect("caches");
        let cidr = "10.43.0.0/16".parse().expect("a range");
        let options = Options { service_cidrs: vec![cidr], ..Options::default() };
        let builder = ApiServer::builder(caches.clone());
        let (builder, guard) = security::secure(builder, &caches, &pki, &options).expect("secured");
        let server = builder.build();
        let facts = Facts {
            service_cidrs: vec![cidr],
            advertise: vec![[192, 0, 2, 1].into()],
            port: 6443,
            client_ca_pem: pki.ca_pem(),
            front_proxy_ca_pem: pki.front_proxy_ca.certificate().to_pem(),
            request_headers: orkd_apiserver::authn::front_proxy::RequestHeaders::standard(vec![
                "front-proxy-client".into(),
            ]),
            server_ca_pem: pki.ca_pem(),
        };
        guard.bootstrap(&server, &facts).await.expect("bootstrap");
        let supervisor = Supervisor::new();
        let api = Api::new(client(&server, UserInfo::new("admin", &[MASTERS])), "test");
        let world = World { api, server, supervisor, _guard: guard, _dir: dir };
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        world.create("/api/v1/namespaces/default/serviceaccounts", account).await;
        world.class("gpu", json!({})).await;
        world.node("a").await;
        world.node("b").await;
        world.schedule();
        world
    }

    fn schedule(&self) {
        let client = client(&self.server, UserInfo::new("system:kube-scheduler", &[]));
        let informers = Informers::new(client.clone(), self.supervisor.clone());
        let api = Api::new(client, "kube-scheduler");
        let config = Arc::new(orkd_scheduler::Config::default());
        let tasks = self.supervisor.clone();
        self.supervisor.run(TaskKind::Controller, "scheduler", move |stop| {
            let (informers, api) = (informers.clone(), api.clone());
            orkd_scheduler::run(config.clone(), informers, api, String::new(), tasks.clone(), stop)
        });
    }

    async fn stop(self) {
        self.supervisor.shutdown(Duration::from_secs(5)).await;
        self.server.caches().stop();
        self.server.store().close().await;
    }

    async fn get(&self, path: &str) -> Value {
        match self.api.get(&Target::path(path)).await {
            Ok(object) => object,
            Err(e) if e.is_not_found() => Value::Null,
            Err(e) => panic!("{path}: {e}"),
        }
    }

    async fn create(&self, path: &str, body: Value) -> Value {
        self.api.create(&Target::path(path), &body).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    async fn merge(&self, path: &str, body: Value) -> Value {
        let patched = self.api.patch(&Target::path(path), &Patch::Merge(body)).await;
        patched.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    async fn delete(&self, path: &str) {
        let options = DeleteOptions::default().grace(0);
        self.api.delete(&Target::path(path), &options).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    async fn node(&self, name: &str) {
        let amounts = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name,
            "labels": {"kubernetes.io/hostname": name}}, "status": {"allocatable": amounts, "capacity": amounts}});
        self.create("/api/v1/nodes", node).await;
        self.merge(&format!("/api/v1/nodes/{name}"), json!({"spec": {"taints": null}})).await;
    }

    async fn class(&self, name: &str, spec: Value) {
        let class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name},
            "spec": spec});
        self.create(CLASSES, class).await;
    }

    /// A pool of a node's own.
    async fn slice(&self, node: &str, devices: Value) {
        let slice = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": node},
            "spec": {"driver": "gpu.example.com", "nodeName": node, "devices": devices,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
        self.create(SLICES, slice).await;
    }

    async fn claim(&self, name: &str, requests: Value) -> Value {
        self.create(CLAIMS, claim(name, requests)).await
    }

    async fn pod(&self, name: &str, claim: &str) -> Value {
        self.create(PODS, pod(name, json!([{"name": "dev", "resourceClaimName": claim}]))).await
    }

    /// Waits until an answer is right; the last one is in the failure.
    async fn eventually<T>(&self, what: &str, path: &str, right: impl Fn(&Value) -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let state = self.get(path).await;
            if let Some(answer) = right(&state) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{what}: {path} is {state:#}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The node that a pod is bound to.
    async fn bound(&self, pod: &str) -> String {
        let node = |p: &Value| p["spec"]["nodeName"].as_str().map(str::to_owned);
        self.eventually("a node", &format!("{PODS}/{pod}"), node).await
    }

    /// Why a pod is not scheduled, up to what was tried about it.
    async fn refused(&self, pod: &str, text: &str) {
        let told = |p: &Value| {
            let conditions = p["status"]["conditions"].as_array()?;
            let condition = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False")?;
            condition["message"].as_str()?.starts_with(text).then_some(())
        };
        self.eventually(text, &format!("{PODS}/{pod}"), told).await;
    }

    /// The devices of a claim, and for whom it is reserved.
    async fn devices(&self, claim: &str) -> (Vec<String>, Vec<String>) {
        let claim = self.get(&format!("{CLAIMS}/{claim}")).await;
        let texts = |list: &Value, field: &str| -> Vec<String> {
            let list = list.as_array().into_iter().flatten();
            list.map(|v| v[field].as_str().unwrap_or_default().to_owned()).collect()
        };
        let status = &claim["status"];
        (texts(&status["allocation"]["devices"]["results"], "device"), texts(&status["reservedFor"], "name"))
    }

    /// Plays the claim controller after the last user of a claim is gone.
    async fn free(&self, claim: &str) {
        let freed = json!({"status": {"allocation": null, "reservedFor": null, "devices": null}});
        self.merge(&format!("{CLAIMS}/{claim}/status"), freed).await;
    }
}

fn client(server: &ApiServer, user: UserInfo) -> kube::Client {
    let router = server.router();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let mut request = request.map(orkd_apiserver::Body::new);
        request.extensions_mut().insert(InProcess(user.clone()));
        tower::ServiceExt::oneshot(router.clone(), request)
    });
    kube::Client::new(service, "default")
}

fn claim(name: &str, requests: Value) -> Value {
    json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": name},
        "spec": {"devices": {"requests": requests}}})
}

fn pod(name: &str, claims: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
        "automountServiceAccountToken": false, "resourceClaims": claims,
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "dev"}]}}]}})
}

fn one() -> Value {
    json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}])
}

fn devices(names: &[&str]) -> Value {
    names.iter().map(|n| json!({"name": n})).collect()
}

async fn in_world<F: Future<Output = World>>(story: impl FnOnce(World) -> F) {
    let world = tokio::time::timeout(Duration::from_secs(120), story(World::new().await)).await;
    world.expect("a story of two minutes").stop().await;
}

const NO_DEVICE: &str = "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 \
                         nodes are available: 2 Preemption is not helpful for scheduling.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_share_a_claim_where_its_device_is() {
    in_world(async |world| {
        world.slice("b", devices(&["x"])).await;
        world.claim("shared", one()).await;
        world.pod("p", "shared").await;
        world.pod("q", "shared").await;
        assert_eq!((world.bound("p").await, world.bound("q").await), ("b".into(), "b".into()));
        let (has, mut users) = world.devices("shared").await;
        users.sort();
        assert_eq!((has, users), (vec!["x".to_owned()], vec!["p".to_owned(), "q".to_owned()]));
        let claim = world.get(&format!("{CLAIMS}/shared")).await;
        assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
        let selector = &claim["status"]["allocation"]["nodeSelector"]["nodeSelectorTerms"];
        assert_eq!(selector[0]["matchFields"][0]["values"], json!(["b"]));
        assert!(claim["status"]["allocation"]["allocationTimestamp"].is_string());
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_for_what_is_missing() {
    in_world(async |world| {
        // The claim itself: the pod is not even tried.
        world.pod("p", "late").await;
        world.claim("other", json!([{"name": "r", "exactly": {"deviceClassName": "later"}}])).await;
        world.pod("q", "other").await;
        world.refused("q", "0/2 nodes are available: request r: device class later does not exist.").await;
        let waiting = world.get(&format!("{PODS}/p")).await;
        assert!(waiting["status"]["conditions"].is_null(), "{waiting:#}");
        world.claim("late", one()).await;
        world.refused("p", NO_DEVICE).await;
        world.slice("a", devices(&["x"])).await;
        assert_eq!(world.bound("p").await, "a");
        world.class("later", json!({})).await;
        world.refused("q", NO_DEVICE).await;
        world.slice("b", devices(&["y"])).await;
        assert_eq!(world.bound("q").await, "b");
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_a_template_is_waited_for() {
    in_world(async |world| {
        world.slice("a", devices(&["x"])).await;
        let claims = json!([{"name": "dev", "resourceClaimTemplateName": "t"}]);
        let made = world.create(PODS, pod("p", claims)).await;
        let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": made["metadata"]["uid"],
            "controller": true}]);
        let mut body = claim("p-dev-1", one());
        body["metadata"]["ownerReferences"] = owner;
        world.create(CLAIMS, body).await;
        world.claim("stranger", one()).await;
        let names =
            |claim: &str| json!({"status": {"resourceClaimStatuses": [{"name": "dev", "resourceClaimName": claim}]}});
        world.merge(&format!("{PODS}/p/status"), names("p-dev-1")).await;
        assert_eq!(world.bound("p").await, "a");
        assert_eq!(world.devices("p-dev-1").await.1, ["p"]);
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once_get_each_device_once_and_the_rest_follows() {
    in_world(async |world| {
        for i in 0..12 {
            world.claim(&format!("c{i}"), one()).await;
        }
        for i in 0..12 {
            world.pod(&format!("p{i}"), &format!("c{i}")).await;
        }
        world.slice("a", devices(&["1", "2", "3", "4"])).await;
        world.slice("b", devices(&["5", "6", "7", "8"])).await;
        let count = |list: &Value| {
            let items = list["items"].as_array()?;
            let bound: Vec<String> = (items.iter().filter(|p| p["spec"]["nodeName"].is_string()))
                .map(|p| p["metadata"]["name"].as_str().unwrap_or_default().to_owned())
                .collect();
            (bound.len() >= 8).then_some(bound)
        };
        let bound = world.eventually("eight are bound", PODS, count).await;
        let mut given = Vec::new();
        for i in 0..12 {
            given.extend(world.devices(&format!("c{i}")).await.0);
        }
        given.sort();
        assert_eq!(given, ["1", "2", "3", "4", "5", "6", "7", "8"]);
        assert_eq!(bound.len(), 8);
        for pod in &bound[..4] {
            world.delete(&format!("{PODS}/{pod}")).await;
            world.free(&pod.replace('p', "c")).await;
        }
        let all = |list: &Value| {
            let items = list["items"].as_array()?;
            (items.len() == 8 && items.iter().all(|p| p["spec"]["nodeName"].is_string())).then_some(())
        };
        world.eventually("the others follow", PODS, all).await;
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_alternative_is_taken_when_the_first_is_gone() {
    in_world(async |world| {
        world.class("big", json!({})).await;
        world.slice("a", devices(&["1", "2", "3"])).await;
        let several = json!([{"name": "r", "firstAvailable": [
            {"name": "two", "deviceClassName": "big", "count": 2}, {"name": "one", "deviceClassName": "gpu"}]}]);
        world.claim("first", several.clone()).await;
        world.pod("p", "first").await;
        world.bound("p").await;
        world.claim("second", several).await;
        world.pod("q", "second").await;
        world.bound("q").await;
        let request = async |claim: &str| {
            let claim = world.get(&format!("{CLAIMS}/{claim}")).await;
            claim["status"]["allocation"]["devices"]["results"][0]["request"].clone()
        };
        assert_eq!((request("first").await, request("second").await), (json!("r/two"), json!("r/one")));
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_with_the_better_alternative_wins() {
    in_world(async |world| {
        world.slice("a", devices(&["1"])).await;
        world.slice("b", devices(&["2", "3"])).await;
        let several = json!([{"name": "r", "firstAvailable": [
            {"name": "two", "deviceClassName": "gpu", "count": 2}, {"name": "one", "deviceClassName": "gpu"}]}]);
        for i in 0..3 {
            world.claim(&format!("c{i}"), several.clone()).await;
            world.pod(&format!("p{i}"), &format!("c{i}")).await;
            if i == 0 {
                assert_eq!(world.bound("p0").await, "b");
            }
        }
        assert_eq!(world.bound("p1").await, "a");
        world.refused("p2", NO_DEVICE).await;
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_in_the_wrong_place_are_given_back() {
    in_world(async |world| {
        world.slice("a", devices(&["x"])).await;
        world.claim("c", one()).await;
        world.pod("p", "c").await;
        assert_eq!(world.bound("p").await, "a");
        // The pod is gone, its claim still has the device: where it is, nobody may go any more.
        world.delete(&format!("{PODS}/p")).await;
        world.merge(&format!("{CLAIMS}/c/status"), json!({"status": {"reservedFor": null}})).await;
        world.merge("/api/v1/nodes/a", json!({"spec": {"unschedulable": true}})).await;
        world.slice("b", devices(&["y"])).await;
        world.pod("q", "c").await;
        assert_eq!(world.bound("q").await, "b");
        assert_eq!(world.devices("c").await, (vec!["y".into()], vec!["q".into()]));
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_when_its_device_is_prepared() {
    in_world(async |world| {
        let fabric = |name: &str| {
            json!({"name": name, "bindsToNode": true, "bindingConditions": ["Attached"], "bindingFailureConditions": ["Broken"]})
        };
        world.slice("a", json!([fabric("x")])).await;
        world.claim("c", one()).await;
        world.pod("p", "c").await;
        let reserved = |c: &Value| c["status"]["reservedFor"][0]["name"].is_string().then_some(());
        let path = format!("{CLAIMS}/c");
        let prepared = |device: &str, condition: &str| {
            json!({"status": {"devices": [{"driver": "gpu.example.com", "pool": "a", "device": device, "conditions": [
                {"type": condition, "status": "True", "reason": "R", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}]}})
        };
        world.eventually("the claim is reserved", &path, reserved).await;
        // It breaks: the pod is tried anew, the device given back and chosen again, for want of another.
        world.merge(&format!("{path}/status"), prepared("x", "Broken")).await;
        let anew = |c: &Value| {
            let again = c["status"]["devices"].is_null() && c["status"]["reservedFor"][0]["name"].is_string();
            again.then_some(())
        };
        world.eventually("it is reserved anew", &path, anew).await;
        assert!(world.get(&format!("{PODS}/p")).await["spec"]["nodeName"].is_null());
        world.merge(&format!("{path}/status"), prepared("x", "Attached")).await;
        assert_eq!(world.bound("p").await, "a");
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn selectors_choose_the_device() {
    in_world(async |world| {
        let of_model = |model: &str| {
            let expression = format!("device.attributes['gpu.example.com'].model == '{model}'");
            json!({"selectors": [{"cel": {"expression": expression}}]})
        };
        world.class("new", of_model("new")).await;
        let model = |name: &str, model: &str| json!({"name": name, "attributes": {"model": {"string": model}}});
        world.slice("a", json!([model("x", "old")])).await;
        world.slice("b", json!([model("y", "old"), model("z", "new")])).await;
        world.claim("c", json!([{"name": "r", "exactly": {"deviceClassName": "new"}}])).await;
        world.pod("p", "c").await;
        assert_eq!(world.bound("p").await, "b");
        assert_eq!(world.devices("c").await.0, ["z"]);
        let mut request = of_model("old");
        request["selectors"][0]["cel"]["expression"] = json!("device.attributes['gpu.example.com'].size == 1");
        request["deviceClassName"] = json!("gpu");
        world.claim("wrong", json!([{"name": "r", "exactly": request}])).await;
        world.pod("q", "wrong").await;
        let why =
            "running \"DynamicResources\" filter plugin: claim default/wrong: selector #0 on device gpu.example.com/";
        world.refused("q", why).await;
        world
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extended_resource_is_given_as_devices_where_no_node_has_it() {
    const RESOURCE: &str = "example.com/gpu";
    in_world(async |world| {
        let asking = |name: &str| {
            let mut pod = pod(name, json!([]));
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {RESOURCE: "2"}, "requests": {RESOURCE: "2"}});
            pod
        };
        world.create(PODS, asking("p")).await;
        world.refused("p", "0/2 nodes are available: 2 Insufficient example.com/gpu.").await;
        world.class("extended", json!({"extendedResourceName": RESOURCE})).await;
        world.refused("p", NO_DEVICE).await;
        world.slice("b", devices(&["1", "2", "3"])).await;
        assert_eq!(world.bound("p").await, "b");
        let bound = world.get(&format!("{PODS}/p")).await;
        let status = &bound["status"]["extendedResourceClaimStatus"];
        let mapping = json!([{"containerName": "c", "resourceName": RESOURCE, "requestName": "container-0-request-0"}]);
        assert_eq!(status["requestMappings"], mapping);
        let name = status["resourceClaimName"].as_str().unwrap_or_default();
        assert!(name.starts_with("p-extended-resources-"), "{bound:#}");
        assert_eq!(world.devices(name).await, (vec!["1".into(), "2".into()], vec!["p".into()]));
        let claim = world.get(&format!("{CLAIMS}/{name}")).await;
        assert_eq!(claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"], "true");
        assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], bound["metadata"]["uid"]);
        // One device is not two; a node that has the resource itself needs none.
        world.create(PODS, asking("q")).await;
        world.refused("q", NO_DEVICE).await;
        world.merge("/api/v1/nodes/a/status", json!({"status": {"allocatable": {RESOURCE: "2"}}})).await;
        assert_eq!(world.bound("q").await, "a");
        let second = world.get(&format!("{PODS}/q")).await;
        assert!(second["status"]["extendedResourceClaimStatus"].is_null(), "{second:#}");
        let claims = world.get(CLAIMS).await;
        assert_eq!(claims["items"].as_array().map(Vec::len), Some(1));
        world
    })
    .await;
}
