//! The loop with an API that takes everything: waiting for leave, extenders, what moves pods that wait.

use std::sync::Mutex;

use kube::client::Body;
use orkd_reconcile::Resource;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::cluster::Cluster;
use crate::config::default_profile;
use crate::extender::tests::extender;
use crate::framework::Plugin;
use crate::nodes::tests::{cpu, node};
use crate::pod::tests::{from_json, pod};

/// Has every pod wait, and remembers those that went.
#[derive(Clone, Default)]
struct Doorkeeper(Arc<Mutex<Vec<String>>>);

impl Plugin for Doorkeeper {
    fn name(&self) -> &'static str {
        "Doorkeeper"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Permit, Point::PostBind]
    }

    fn permit(&self, _cluster: &mut Cluster, _pod: &Arc<PodInfo>, _node: usize) -> Permit {
        Permit::Wait(Duration::from_secs(10))
    }

    fn post_bind(&self, _cluster: &Cluster, pod: &PodInfo, node: &str) {
        self.0.lock().expect("not poisoned").push(format!("{} on {node}", pod.meta.name));
    }

    fn may_help(&self, event: Event<'_>, _pod: &PodInfo, _cluster: &Cluster) -> bool {
        matches!(event, Event::Node { .. })
    }
}

/// A scheduler whose API takes everything and remembers what it was asked.
struct Bed {
    scheduler: Scheduler,
    inbox: mpsc::UnboundedReceiver<Message>,
    asked: mpsc::UnboundedReceiver<(String, Value)>,
    went: Doorkeeper,
}

impl Bed {
    fn new(waits: bool, extenders: Vec<Extender>) -> Bed {
        let (ask, asked) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let ask = ask.clone();
            async move {
                let what = format!("{} {}", request.method(), request.uri().path());
                let body = request.into_body().collect_bytes().await.unwrap_or_default();
                // The test has ended where nobody reads it.
                let _ = ask.send((what, serde_json::from_slice(&body).unwrap_or_default()));
                let answer = Body::from(b"{\"metadata\":{}}".to_vec());
                Ok::<_, std::convert::Infallible>(http::Response::new(answer))
            }
        });
        let api = Api::new(kube::Client::new(service, "default"), "test");
        let went = Doorkeeper::default();
        let mut profile = default_profile(&Doors { api: Some(api.clone()), ..Doors::default() });
        profile.name = String::new();
        if waits {
            let at = profile.add(Box::new(went.clone()));
            profile.call(Point::Permit, at);
            profile.call(Point::PostBind, at);
        }
        let (messages, inbox) = mpsc::unbounded_channel();
        let recorders = Arc::new([(String::new(), Recorder::discarding())].into());
        let mut algorithm = Algorithm::new(vec![profile]);
        algorithm.has_extenders = !extenders.is_empty();
        let scheduler = Scheduler {
            algorithm,
            extenders,
            queue: Queue::default(),
            pods: Informer::detached(Resource::of::<PodInfo>()),
            writer: Writer { api, recorders, supervisor: Supervisor::new(), messages },
            permits: Arc::new(Semaphore::new(BINDINGS)),
            assumed: Assumed::default(),
            levels: Arc::default(),
        };
        Bed { scheduler, inbox, asked, went }
    }

    fn node(&mut self, name: &str) {
        let added = Arc::new(node(name, "1", json!({})));
        self.scheduler.take(Message::Node(Change::Added(added)));
    }

    fn pod(&mut self, pod: &Arc<PodInfo>) {
        self.scheduler.pods.apply((**pod).clone());
        self.scheduler.take(Message::Pod(Change::Added(pod.clone())));
    }

    /// Tries the next pod.
    async fn cycle(&mut self) {
        let permit = self.scheduler.permits.clone().acquire_owned().await.expect("it is open");
        self.scheduler.cycle(Instant::now(), permit).await;
    }

    /// The next message of the scheduler's own tasks is taken.
    async fn hear(&mut self) {
        let message = self.inbox.recv().await.expect("a message");
        self.scheduler.take(message);
    }

    /// What the API is asked next.
    async fn asks(&mut self) -> (String, Value) {
        self.asked.recv().await.expect("a request")
    }

    /// From now on events are asked of the API too.
    fn tell(&mut self) {
        let writer = &mut self.scheduler.writer;
        let recorder = Recorder::of_controller(writer.api.clone(), &writer.supervisor, "default-scheduler", "h");
        writer.recorders = Arc::new([(String::new(), recorder)].into());
    }

    /// The next event of a reason: who it is about, the other object, the action and the text.
    async fn told(&mut self, reason: &str) -> [String; 4] {
        loop {
            let (what, body) = self.asks().await;
            if what == "POST /api/v1/namespaces/default/events" && body["reason"] == reason {
                let of = |at: &str| body.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
                return [of("/involvedObject/name"), of("/related/name"), of("/action"), of("/message")];
            }
        }
    }

    fn used(&self) -> Vec<i64> {
        self.scheduler.algorithm.cluster.nodes.rows.used[crate::nodes::PODS].clone()
    }

    fn waiting(&mut self) -> &mut crate::waiting::WaitingPods {
        &mut self.scheduler.algorithm.cluster.waiting
    }
}

const STATUS: &str = "PATCH /api/v1/namespaces/default/pods/p/status";

#[tokio::test(start_paused = true)]
async fn a_pod_that_gets_leave_goes() {
    let mut bed = Bed::new(true, vec![]);
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    let (what, body) = bed.asks().await;
    assert_eq!((what.as_str(), &body["status"]), (STATUS, &json!({"nominatedNodeName": "a"})));
    assert_eq!((bed.used(), bed.waiting().iter().count()), (vec![1], 1));
    bed.scheduler.tick(Instant::now());
    assert!(bed.asked.try_recv().is_err(), "it waits");
    bed.waiting().allow("p", "Doorkeeper");
    bed.scheduler.tick(Instant::now());
    assert_eq!(bed.asks().await.0, "POST /api/v1/namespaces/default/pods/p/binding");
    bed.hear().await;
    assert_eq!(*bed.went.0.lock().expect("not poisoned"), ["p on a"]);
    assert_eq!((bed.used(), bed.scheduler.queue.trying("p").is_none()), (vec![1], true));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_gets_no_leave_gives_back_what_it_took() {
    let mut bed = Bed::new(true, vec![]);
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    bed.asks().await;
    let later = bed.scheduler.next_deadline().expect("it does not wait for ever");
    assert_eq!(later - Instant::now(), Duration::from_secs(10));
    bed.scheduler.tick(later);
    let (what, body) = bed.asks().await;
    assert_eq!((what.as_str(), &body["status"]["nominatedNodeName"]), (STATUS, &Value::Null));
    assert_eq!(
        body["status"]["conditions"][0]["message"],
        "0/1 nodes are available: 1 rejected due to timeout after waiting 10s at plugin Doorkeeper."
    );
    assert_eq!(bed.used(), [0]);
    assert_eq!(bed.scheduler.queue.lengths().unschedulable, 1, "it waits for what helps with the plugin");
    bed.node("b");
    assert_eq!(bed.scheduler.queue.lengths().backoff, 1);
}

#[tokio::test(start_paused = true)]
async fn what_happens_while_a_pod_waits_is_not_lost() {
    let mut bed = Bed::new(true, vec![]);
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    bed.node("b");
    bed.waiting().reject("p", "Doorkeeper", "not now");
    bed.scheduler.tick(Instant::now());
    assert_eq!(bed.scheduler.queue.lengths().backoff, 1, "another node may have helped");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_goes_away_waits_no_longer() {
    let mut bed = Bed::new(true, vec![]);
    bed.node("a");
    let (p, q) = (pod("p", cpu("1")), pod("q", cpu("1")));
    bed.pod(&p);
    bed.pod(&q);
    bed.cycle().await;
    bed.cycle().await;
    assert_eq!((bed.used(), bed.scheduler.queue.lengths().unschedulable), (vec![1], 1), "there is no room for q");
    bed.scheduler.pods.remove((*p).clone());
    bed.scheduler.take(Message::Pod(Change::Deleted(p)));
    bed.scheduler.tick(Instant::now());
    assert_eq!((bed.used(), bed.scheduler.queue.lengths().backoff), (vec![0], 1), "now there is");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_makes_room_without_being_deleted() {
    let mut bed = Bed::new(true, vec![]);
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    let mut spec = cpu("1");
    spec["priority"] = json!(5);
    bed.pod(&pod("important", spec));
    bed.cycle().await;
    bed.scheduler.tick(Instant::now());
    assert_eq!(bed.used(), [0]);
    let lengths = bed.scheduler.queue.lengths();
    assert_eq!((lengths.backoff, lengths.unschedulable), (2, 0), "both are tried again");
    tokio::task::yield_now().await;
    while let Ok((what, _)) = bed.asked.try_recv() {
        assert!(!what.starts_with("DELETE"), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_changes_is_tried_again_if_that_helps() {
    let mut bed = Bed::new(false, vec![]);
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    bed.scheduler.take(Message::Node(Change::Added(Arc::new(node("a", "1", tainted)))));
    let old = pod("p", cpu("1"));
    bed.pod(&old);
    bed.cycle().await;
    assert_eq!(bed.scheduler.queue.lengths().unschedulable, 1);
    let mut change = |extra: Value| {
        let mut spec = cpu("1");
        crate::nodes::tests::merge(&mut spec, &extra);
        let new = pod("p", spec);
        bed.scheduler.take(Message::Pod(Change::Updated { old: old.clone(), new }));
        bed.scheduler.queue.lengths()
    };
    assert_eq!(change(json!({"volumes": [{"name": "v", "csi": {"driver": "d"}}]})).unschedulable, 1, "no help");
    assert_eq!(change(json!({"tolerations": [{"key": "k", "operator": "Exists"}]})).backoff, 1);
}

#[tokio::test(start_paused = true)]
async fn who_reckoned_with_a_nominated_pod_hears_when_it_goes() {
    let mut bed = Bed::new(false, vec![]);
    bed.node("a");
    let nominated = from_json(json!({"metadata": {"name": "n", "namespace": "default", "uid": "n"},
        "spec": {"schedulingGates": [{"name": "g"}], "priority": 5, "containers": cpu("1")["containers"]},
        "status": {"nominatedNodeName": "a"}}));
    bed.pod(&nominated);
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    assert_eq!(bed.scheduler.queue.lengths().unschedulable, 1, "the place is kept");
    bed.scheduler.pods.remove((*nominated).clone());
    bed.scheduler.take(Message::Pod(Change::Deleted(nominated)));
    assert_eq!(bed.scheduler.queue.lengths().backoff, 1);
}

#[tokio::test]
async fn a_nominated_node_that_an_extender_refuses_is_not_the_last() {
    let e = extender(|path, body| match path {
        "/scheduler/filter" => {
            let names = body["nodenames"].as_array().into_iter().flatten().filter(|n| **n != "a");
            json!({"nodenames": names.collect::<Vec<_>>(), "failedNodes": {"a": "busy"}})
        }
        _ => json!({}),
    })
    .await;
    let mut bed = Bed::new(false, vec![e]);
    bed.node("a");
    bed.node("b");
    let p = pod("p", cpu("1"));
    bed.pod(&p);
    bed.scheduler.algorithm.cluster.nominated.add(&p, "a");
    bed.cycle().await;
    assert_eq!(bed.used(), [0, 1]);
}

#[tokio::test]
async fn extenders_refusals_stand_beside_the_others() {
    let e = extender(|_, _| json!({"nodenames": [], "failedNodes": {"b": "busy"}})).await;
    let mut bed = Bed::new(false, vec![e]);
    let full = json!({"status": {"allocatable": {"cpu": "100m"}}});
    bed.scheduler.take(Message::Node(Change::Added(Arc::new(node("a", "1", full)))));
    bed.node("b");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    let (_, body) = bed.asks().await;
    let message = body["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("0/2 nodes are available: 1 Insufficient cpu, 1 busy. "), "{message}");
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_schedulers_are_left_alone() {
    let mut bed = Bed::new(false, vec![]);
    let mut spec = cpu("1");
    spec["schedulerName"] = json!("other");
    bed.pod(&pod("p", spec));
    assert_eq!(bed.scheduler.queue.len(), 0);
    bed.pod(&pod("q", cpu("1")));
    assert_eq!(bed.scheduler.queue.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn events_tell_what_was_done_to_whom() {
    let mut bed = Bed::new(true, vec![]);
    bed.tell();
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    bed.waiting().allow("p", "Doorkeeper");
    bed.scheduler.tick(Instant::now());
    let scheduled = ["p", "", "Binding", "Successfully assigned default/p to a"];
    assert_eq!(bed.told("Scheduled").await, scheduled);
    bed.pod(&pod("q", cpu("1")));
    bed.cycle().await;
    let [about, _, action, text] = bed.told("FailedScheduling").await;
    assert_eq!((about.as_str(), action.as_str()), ("q", "Scheduling"));
    assert!(text.starts_with("0/1 nodes are available: 1 Insufficient cpu. "), "{text}");
    let mut spec = cpu("1");
    spec["priority"] = json!(5);
    bed.pod(&pod("important", spec));
    bed.cycle().await;
    let preempted = ["p", "important", "Preempting", "Preempted by pod important on node a"];
    assert_eq!(bed.told("Preempted").await, preempted);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_leave_is_told_that_it_was_preempted() {
    let mut bed = Bed::new(true, vec![]);
    bed.tell();
    bed.node("a");
    bed.pod(&pod("p", cpu("1")));
    bed.cycle().await;
    let mut spec = cpu("1");
    spec["priority"] = json!(5);
    bed.pod(&pod("important", spec));
    bed.cycle().await;
    let preempted = ["p", "important", "Preempting", "Preempted by pod important on node a"];
    assert_eq!(bed.told("Preempted").await, preempted);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_going_is_not_scheduled_and_told_so() {
    let mut bed = Bed::new(false, vec![]);
    bed.tell();
    bed.node("a");
    let going = from_json(json!({"metadata": {"name": "p", "namespace": "default", "uid": "p",
        "deletionTimestamp": "2020-01-01T00:00:00Z", "finalizers": ["example.com/x"]}, "spec": cpu("1")}));
    bed.pod(&going);
    assert_eq!(bed.scheduler.queue.len(), 0);
    let skipped = ["p", "", "Scheduling", "skip schedule deleting pod: default/p"];
    assert_eq!(bed.told("FailedScheduling").await, skipped);
}

#[test]
fn what_is_never_seen_is_due_in_order() {
    let now = Instant::now();
    let mut assumed = Assumed::default();
    for (i, uid) in ["a", "b", "c"].into_iter().enumerate() {
        assumed.insert(uid, now + Duration::from_secs(i as u64));
    }
    assumed.remove("a");
    assert_eq!(assumed.next_deadline(), Some(now + Duration::from_secs(1)));
    assert_eq!(assumed.due(now + Duration::from_secs(1)), ["b"]);
    assert_eq!((assumed.until.len(), assumed.next_deadline()), (1, Some(now + Duration::from_secs(2))));
}
