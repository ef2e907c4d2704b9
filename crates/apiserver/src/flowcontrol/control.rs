//! Priority and fairness before requests: classification, seats, queues, time limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderValue;
use orkd_base::metrics::{Counter, Gauge, Histogram, before_render};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::oneshot;

use super::queueset::{Arrival, QueueSet, Queuing, Ticket, Timings};
use super::rules::Schema;
use super::seats::{Bounds, Class, Shares, Smoothed, allocate, bounds};
use super::timing::Timing;
use super::{defaults, meters, shuffle};
use crate::route::RequestInfo;
use crate::user::UserInfo;

/// How long a request waits at most: a quarter of what it may take in all.
const WAIT: Duration = Duration::from_secs(15);
/// Seats are given out anew so often at most.
const PERIOD: f64 = 10.0;

/// Priority and fairness of one server.
pub struct Control {
    begun: Instant,
    seats: u32,
    config: ArcSwap<Config>,
    /// When seats were last given out anew, in milliseconds; 0 for never.
    adjusted: AtomicU64,
}

/// What the objects say.
pub(super) struct Config {
    /// In the order they are asked.
    pub(super) schemas: Vec<Arc<Flows>>,
    pub(super) levels: Vec<Arc<Level>>,
}

/// A schema with its level and meters.
pub(super) struct Flows {
    pub(super) schema: Schema,
    level: Arc<Level>,
    uid: HeaderValue,
    meters: Meters,
}

struct Meters {
    dispatched: Arc<Counter>,
    executing: Arc<Gauge>,
    seats: Arc<Gauge>,
    inqueue: Arc<Gauge>,
    inqueue_seats: Arc<Gauge>,
    no_seat: Arc<Counter>,
    waited: Arc<Histogram>,
    served: Arc<Histogram>,
    width: Arc<Histogram>,
    length: Arc<Histogram>,
}

type Waiting = (oneshot::Sender<Ticket>, String);

/// A priority level.
pub(super) struct Level {
    pub(super) name: String,
    uid: HeaderValue,
    /// Exempt levels count, and refuse nobody.
    pub(super) exempt: bool,
    queuing: Option<Queuing>,
    shares: Shares,
    bounds: Mutex<Bounds>,
    smoothed: Mutex<Smoothed>,
    pub(super) set: Mutex<QueueSet<Waiting>>,
    pub(super) counts: Counts,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) dispatched: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) timed_out: AtomicU64,
    pub(super) cancelled: AtomicU64,
}

/// Leave to be served; given back when dropped.
pub struct Permit {
    control: Arc<Control>,
    flows: Arc<Flows>,
    ticket: Option<Ticket>,
    /// How long the request waited.
    pub waited: Duration,
}

/// A request that is sent away; its headers tell why all the same. None where no schema is about it.
pub struct Refused(Option<Arc<Flows>>);

/// The uids of schema and level, which answers carry.
pub type Uids = (HeaderValue, HeaderValue);

/// Names schema and level in the headers of an answer.
pub fn put_headers(headers: &mut http::HeaderMap, (schema, level): &Uids) {
    headers.insert("x-kubernetes-pf-flowschema-uid", schema.clone());
    headers.insert("x-kubernetes-pf-prioritylevel-uid", level.clone());
}

impl Flows {
    fn uids(&self) -> Uids {
        (self.uid.clone(), self.level.uid.clone())
    }
}

impl Refused {
    /// Schema and level.
    pub fn uids(&self) -> Option<Uids> {
        self.0.as_ref().map(|flows| flows.uids())
    }
}

impl Permit {
    /// Schema and level.
    pub fn uids(&self) -> Uids {
        self.flows.uids()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        let meters = &self.flows.meters;
        meters.executing.add(-1.0);
        meters.seats.add(-f64::from(ticket.width));
        let now = self.control.now();
        meters.served.observe((now - ticket.began).max(0.0));
        self.flows.level.give_back(now, &ticket);
    }
}

impl Level {
    fn new(object: &Value) -> Level {
        let spec = &object["spec"];
        let exempt = spec["type"] == "Exempt";
        let part = if exempt { &spec["exempt"] } else { &spec["limited"] };
        let response = &part["limitResponse"];
        let number = |f: &str| usize::try_from(response["queuing"][f].as_u64().unwrap_or(0)).unwrap_or(0);
        let queuing = (response["type"] == "Queue").then(|| Queuing {
            // Bounded again, whatever was stored.
            queues: number("queues").clamp(1, 10_000),
            hand: number("handSize").clamp(1, shuffle::MAX_HAND),
            length: number("queueLengthLimit").clamp(1, 100_000),
        });
        Level {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            uid: uid(object),
            exempt,
            queuing,
            shares: Shares::read(part),
            bounds: Mutex::new(Bounds { nominal: 0.0, least: 0.0, most: 0.0 }),
            smoothed: Mutex::default(),
            set: Mutex::new(QueueSet::new(queuing, if exempt { u32::MAX } else { 0 }, 0.0)),
            counts: Counts::default(),
        }
    }

    /// Whether a new configuration leaves this level what it is, apart from its shares.
    fn same(&self, other: &Level) -> bool {
        (self.exempt, self.queuing, &self.uid) == (other.exempt, other.queuing, &other.uid)
            && self.shares == other.shares
    }

    fn give_back(&self, now: f64, ticket: &Ticket) {
        let mut set = self.set.lock();
        set.finish(now, ticket);
        wake(&mut set, now);
    }
}

/// Lets those go who have a seat now. Who has gone away gives his back at once.
fn wake(set: &mut QueueSet<Waiting>, now: f64) {
    while let Some(((sender, _), ticket)) = set.dispatch(now) {
        if let Err(ticket) = sender.send(ticket) {
            set.finish(now, &ticket);
        }
    }
}

fn uid(object: &Value) -> HeaderValue {
    let text = object["metadata"]["uid"].as_str().unwrap_or_default();
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

impl Control {
    /// For a server that serves so many requests at once. The default objects are in force until others are set.
    pub fn new(seats: u32) -> Arc<Control> {
        let control = Arc::new(Control {
            begun: Instant::now(),
            seats,
            config: ArcSwap::from_pointee(Config { schemas: Vec::new(), levels: Vec::new() }),
            adjusted: AtomicU64::new(0),
        });
        control.configure(&defaults::schemas(), &defaults::levels());
        let weak = Arc::downgrade(&control);
        before_render(move || weak.upgrade().inspect(|control| control.tell()).is_some());
        control
    }

    /// Sets what is known only to those who look.
    fn tell(&self) {
        for level in &self.config.load().levels {
            let now = self.now();
            let progress = {
                let mut set = level.set.lock();
                set.count_time(now);
                set.progress()
            };
            let name = level.name.as_str();
            meters::CURRENT_R.with(&[name]).set(progress.now);
            meters::DISPATCH_R.with(&[name]).set(progress.dispatch);
            meters::LATEST_S.with(&[name]).set(progress.latest);
            for (bound, next, discounted) in
                [("min", progress.next.0, progress.discounted.0), ("max", progress.next.1, progress.discounted.1)]
            {
                meters::NEXT_S.with(&[bound, name]).set(next);
                meters::NEXT_DISCOUNTED_S.with(&[bound, name]).set(discounted);
            }
        }
    }

    pub(super) fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    pub(super) fn config(&self) -> arc_swap::Guard<Arc<Config>> {
        self.config.load()
    }

    /// Takes over schemas and levels. Levels that stay as they were keep who is served and waits there; the mandatory
    /// objects are there in any case.
    pub fn configure(&self, schemas: &[Value], levels: &[Value]) {
        let before = self.config.load();
        let mut by_name: HashMap<String, Arc<Level>> = HashMap::new();
        let mandatory = |objects: Vec<Value>| {
            objects
                .into_iter()
                .filter(|o| o["metadata"]["name"].as_str().is_some_and(|n| defaults::MANDATORY.contains(&n)))
        };
        for object in levels.iter().cloned().chain(mandatory(defaults::levels())) {
            let new = Level::new(&object);
            if by_name.contains_key(&new.name) {
                continue;
            }
            let old = before.levels.iter().find(|l| l.name == new.name && l.same(&new));
            by_name.insert(new.name.clone(), old.cloned().unwrap_or_else(|| Arc::new(new)));
        }
        let mut all: Vec<Arc<Flows>> = Vec::new();
        for object in schemas.iter().cloned().chain(mandatory(defaults::schemas())) {
            let schema = Schema::read(&object);
            // A schema without its level is none.
            let Some(level) = by_name.get(&schema.level) else { continue };
            if all.iter().any(|f| f.schema.name == schema.name) {
                continue;
            }
            let meters = meters_of(&schema);
            all.push(Arc::new(Flows { level: level.clone(), uid: uid(&object), meters, schema }));
        }
        all.sort_by(|a, b| a.schema.rank().cmp(&b.schema.rank()));
        let mut levels: Vec<Arc<Level>> = by_name.into_values().collect();
        levels.sort_by(|a, b| a.name.cmp(&b.name));
        let shares: Vec<Shares> = levels.iter().map(|l| l.shares).collect();
        for (level, bounds) in levels.iter().zip(bounds(f64::from(self.seats), &shares)) {
            *level.bounds.lock() = bounds;
            let now = self.now();
            let mut set = level.set.lock();
            set.time(now, timings_of(&level.name, now), bounds.nominal);
            if !level.exempt {
                // Its share, until somebody has to wait.
                set.set_limit(now, bounds.nominal.max(1.0) as u32);
                wake(&mut set, now);
            }
            drop(set);
            meters::CURRENT.with(&[&level.name]).set(bounds.nominal);
            let name = level.name.as_str();
            meters::NOMINAL.with(&[name]).set(bounds.nominal);
            meters::LOWER.with(&[name]).set(bounds.least);
            meters::UPPER.with(&[name]).set(bounds.most);
        }
        for gone in before.levels.iter().filter(|b| levels.iter().all(|l| l.name != b.name)) {
            for family in [
                &meters::NOMINAL,
                &meters::LOWER,
                &meters::UPPER,
                &meters::CURRENT,
                &meters::CURRENT_R,
                &meters::DISPATCH_R,
                &meters::LATEST_S,
                &meters::NEXT_S,
                &meters::NEXT_DISCOUNTED_S,
            ] {
                family.forget("priority_level", &gone.name);
            }
        }
        self.config.store(Arc::new(Config { schemas: all, levels }));
    }

    /// Gives out the seats anew, by what was wanted.
    fn adjust(&self) {
        let now = self.now();
        let last = self.adjusted.swap((now * 1000.0) as u64, Ordering::Relaxed) as f64 / 1000.0;
        let periods = (now - last) / PERIOD;
        let config = self.config.load();
        let mut classes = Vec::new();
        for level in &config.levels {
            let (average, deviation, high) = level.set.lock().demand(now);
            let smoothed = level.smoothed.lock().update(average, deviation, high, periods);
            let bounds = *level.bounds.lock();
            // What is being used is not taken away.
            let least = bounds.least.max(bounds.nominal.min(high));
            let target = least.max(smoothed);
            classes.push(Class { least: if level.exempt { target } else { least }, most: bounds.most, target });
            let name = &[level.name.as_str()];
            meters::DEMAND_AVERAGE.with(name).set(average);
            meters::DEMAND_DEVIATION.with(name).set(deviation);
            meters::DEMAND_HIGH.with(name).set(high);
            meters::DEMAND_SMOOTHED.with(name).set(smoothed);
            meters::TARGET.with(name).set(target);
        }
        // The sum of the least may exceed what there is by rounding up.
        let wanted: f64 = classes.iter().map(|c| c.least).sum();
        let (given, part) = allocate(f64::from(self.seats).max(wanted), &classes);
        meters::FAIR_PART.with(&[]).set(part);
        for (level, seats) in config.levels.iter().zip(given) {
            meters::CURRENT.with(&[&level.name]).set(seats);
            if !level.exempt {
                let mut set = level.set.lock();
                set.set_limit(now, seats.max(1.0) as u32);
                wake(&mut set, now);
            }
        }
    }

    fn adjust_when_due(&self) {
        let last = self.adjusted.load(Ordering::Relaxed);
        if last == 0 || self.now() >= last as f64 / 1000.0 + PERIOD {
            self.adjust();
        }
    }

    /// Leave for a request, after waiting where that is needed.
    pub async fn enter(
        self: &Arc<Self>,
        user: &UserInfo,
        request: &RequestInfo,
        width: impl FnOnce() -> u32,
    ) -> Result<Permit, Refused> {
        let found = self.config.load().schemas.iter().find(|f| f.schema.matches(user, request)).cloned();
        // Everybody is in a group that the catch-all schema has; without groups there is nobody.
        let Some(flows) = found else { return Err(Refused(None)) };
        let level = &flows.level;
        let width = if level.exempt { 1 } else { width() };
        let flow = flows.schema.flow(user, request);
        let mut receiver = None;
        let hash = || shuffle::hash(&flows.schema.name, flow);
        let arrival = level.set.lock().arrive(self.now(), hash, width, || {
            let (sender, waiter) = oneshot::channel();
            receiver = Some(waiter);
            (sender, format!("{}, {flow}", flows.schema.name))
        });
        let (id, length, receiver) = match (arrival, receiver) {
            (Arrival::Now(ticket), _) => return Ok(self.permit(&flows, ticket, Duration::ZERO)),
            (Arrival::Waits(id, length), Some(receiver)) => (id, length, receiver),
            (arrival, _) => {
                level.counts.rejected.fetch_add(1, Ordering::Relaxed);
                self.adjust_when_due();
                let reason = if arrival == Arrival::QueueFull { "queue-full" } else { "concurrency-limit" };
                return Err(refused(flows, reason));
            }
        };
        flows.meters.length.observe(length as f64);
        flows.meters.no_seat.inc();
        flows.meters.inqueue.add(1.0);
        flows.meters.inqueue_seats.add(f64::from(width));
        let begun = Instant::now();
        let deadline = tokio::time::Instant::now() + WAIT;
        let mut place = Place { control: self, flows: &flows, id, width, receiver: Some(receiver) };
        self.adjust_when_due();
        while let Some(receiver) = place.receiver.as_mut() {
            // Who waits sees to it that seats are given out anew.
            let next = tokio::time::Instant::now() + Duration::from_secs_f64(PERIOD);
            match tokio::time::timeout_at(next.min(deadline), receiver).await {
                Ok(Ok(ticket)) => {
                    place.receiver = None;
                    return Ok(self.permit(&flows, ticket, begun.elapsed()));
                }
                Ok(Err(_)) => break,
                Err(_) if tokio::time::Instant::now() >= deadline => break,
                Err(_) => self.adjust_when_due(),
            }
        }
        drop(place);
        level.counts.timed_out.fetch_add(1, Ordering::Relaxed);
        let names = ["false", flows.schema.name.as_str(), level.name.as_str()];
        meters::WAIT.with(&names).observe(begun.elapsed().as_secs_f64());
        Err(refused(flows, "time-out"))
    }

    fn permit(self: &Arc<Self>, flows: &Arc<Flows>, ticket: Ticket, waited: Duration) -> Permit {
        let (meters, width) = (&flows.meters, f64::from(ticket.width));
        flows.level.counts.dispatched.fetch_add(1, Ordering::Relaxed);
        meters.dispatched.inc();
        meters.executing.add(1.0);
        meters.seats.add(width);
        meters.width.observe(width);
        meters.waited.observe(waited.as_secs_f64());
        Permit { control: self.clone(), flows: flows.clone(), ticket: Some(ticket), waited }
    }
}

fn refused(flows: Arc<Flows>, reason: &str) -> Refused {
    meters::REJECTED.with(&[&flows.schema.name, &flows.level.name, reason]).inc();
    Refused(Some(flows))
}

/// A place in a queue; left when dropped.
struct Place<'a> {
    control: &'a Control,
    flows: &'a Flows,
    id: u64,
    width: u32,
    /// None when the request has its seat.
    receiver: Option<oneshot::Receiver<Ticket>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.flows.meters.inqueue.add(-1.0);
        self.flows.meters.inqueue_seats.add(-f64::from(self.width));
        let level = &self.flows.level;
        let Some(mut receiver) = self.receiver.take() else { return };
        let now = self.control.now();
        let left = level.set.lock().give_up(now, self.id);
        if !left {
            // The seat came while we went.
            receiver.close();
            if let Ok(ticket) = receiver.try_recv() {
                level.give_back(now, &ticket);
            }
        }
        level.counts.cancelled.fetch_add(1, Ordering::Relaxed);
    }
}

fn timings_of(level: &str, now: f64) -> Timings {
    let of_requests = |phase: &str| Timing::new(meters::REQUEST_USE.with(&[phase, level]), now);
    Timings {
        seats: Timing::new(meters::SEAT_USE.with(&["executing", level]), now),
        executing: of_requests("executing"),
        waiting: of_requests("waiting"),
        demand: Timing::new(meters::DEMAND.with(&[level]), now),
    }
}

fn meters_of(schema: &Schema) -> Meters {
    let both = &[schema.name.as_str(), schema.level.as_str()];
    let [name, level] = *both;
    Meters {
        dispatched: meters::DISPATCHED.with(both),
        executing: meters::EXECUTING.with(both),
        seats: meters::EXECUTING_SEATS.with(both),
        inqueue: meters::INQUEUE.with(both),
        inqueue_seats: meters::INQUEUE_SEATS.with(both),
        no_seat: meters::NO_ACCOMMODATION.with(both),
        waited: meters::WAIT.with(&["true", name, level]),
        served: meters::EXECUTION.with(&[name, level, "regular"]),
        width: meters::SEATS.with(both),
        length: meters::QUEUE_LENGTH.with(both),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn get(path: &str) -> RequestInfo {
        RequestInfo { verb: "get".into(), path: path.into(), ..RequestInfo::default() }
    }

    fn tight(kind: Value) -> Arc<Control> {
        // All seats but the exempt level's are one level's of the test.
        let control = Control::new(2);
        let level = json!({"metadata": {"name": "tight", "uid": "level"}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": 1000, "lendablePercent": 0, "limitResponse": kind}}});
        let schema = json!({"metadata": {"name": "tight", "uid": "schema"}, "spec": {"matchingPrecedence": 1000,
            "priorityLevelConfiguration": {"name": "tight"}, "distinguisherMethod": {"type": "ByUser"}, "rules": [{
            "subjects": [{"kind": "Group", "group": {"name": "*"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
        control.configure(&[schema], &[level]);
        control
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_level_rejects_or_lets_wait() {
        let ann = UserInfo::new("ann", &[]);
        let control = tight(json!({"type": "Reject"}));
        let one = control.enter(&ann, &get("/x"), || 1).await.ok().expect("a seat");
        let two = control.enter(&ann, &get("/x"), || 1).await.ok().expect("a seat");
        let refused = control.enter(&ann, &get("/x"), || 1).await.err().expect("no seat");
        let mut headers = http::HeaderMap::new();
        put_headers(&mut headers, &refused.uids().expect("a schema"));
        assert_eq!(headers["x-kubernetes-pf-flowschema-uid"], "schema");
        assert_eq!(headers["x-kubernetes-pf-prioritylevel-uid"], "level");
        drop((one, two));
        assert!(control.enter(&ann, &get("/x"), || 1).await.is_ok());

        let queue = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}});
        let control = tight(queue);
        let held = (control.enter(&ann, &get("/x"), || 1).await, control.enter(&ann, &get("/x"), || 1).await);
        assert!(held.0.is_ok() && held.1.is_ok());
        let waits = || {
            let (control, ann) = (control.clone(), ann.clone());
            tokio::spawn(async move { control.enter(&ann, &get("/x"), || 1).await.map(|p| p.waited) })
        };
        let (first, second) = (waits(), waits());
        tokio::task::yield_now().await;
        assert!(control.enter(&ann, &get("/x"), || 1).await.is_err(), "the queue is full");
        // Masters are served in any case.
        let master = UserInfo::new("root", &["system:masters"]);
        assert!(control.enter(&master, &get("/y"), || 1).await.is_ok());
        drop(held);
        assert!(first.await.expect("no panic").is_ok());
        assert!(second.await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_and_who_goes_leaves_no_trace() {
        let ann = UserInfo::new("ann", &[]);
        let queue = json!({"type": "Queue", "queuing": {"queues": 4, "handSize": 2, "queueLengthLimit": 5}});
        let control = tight(queue);
        let held = (control.enter(&ann, &get("/x"), || 1).await, control.enter(&ann, &get("/x"), || 1).await);
        let begun = tokio::time::Instant::now();
        assert!(control.enter(&ann, &get("/x"), || 1).await.is_err());
        assert_eq!(begun.elapsed().as_secs(), 15);
        // The client goes while it waits.
        let gone = tokio::time::timeout(Duration::from_secs(1), control.enter(&ann, &get("/x"), || 1)).await;
        assert!(gone.is_err());
        let level = control.config().levels.iter().find(|l| l.name == "tight").cloned().expect("there");
        assert_eq!(level.set.lock().load(), (2, 2, 0));
        drop(held);
        assert_eq!(level.set.lock().load(), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn how_full_a_level_is_stands_in_the_metrics() {
        let ann = UserInfo::new("ann", &[]);
        let queue = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 5}});
        let control = tight(queue);
        let held = (control.enter(&ann, &get("/x"), || 1).await, control.enter(&ann, &get("/x"), || 1).await);
        let waits = tokio::spawn({
            let (control, ann) = (control.clone(), ann.clone());
            async move { control.enter(&ann, &get("/x"), || 1).await.map(|p| p.waited) }
        });
        tokio::task::yield_now().await;
        let shown = |line: &str| {
            let mut text = String::new();
            orkd_base::metrics::render(&mut text);
            let of_level: String = text.lines().filter(|l| l.contains("\"tight\"")).map(|l| format!("{l}\n")).collect();
            assert!(of_level.contains(line), "no {line} in {of_level}");
        };
        shown("current_inqueue_seats{flow_schema=\"tight\",priority_level=\"tight\"} 1\n");
        shown("request_dispatch_no_accommodation_total{flow_schema=\"tight\",priority_level=\"tight\"} 1\n");
        shown("next_s_bounds{bound=\"min\",priority_level=\"tight\"} ");
        for name in ["seat_utilization", "request_utilization"] {
            shown(&format!("priority_level_{name}_count{{phase=\"executing\",priority_level=\"tight\"}} "));
        }
        shown("priority_level_request_utilization_count{phase=\"waiting\",priority_level=\"tight\"} ");
        shown("demand_seats_count{priority_level=\"tight\"} ");
        drop(held);
        assert!(waits.await.expect("no panic").is_ok());
        shown("current_inqueue_seats{flow_schema=\"tight\",priority_level=\"tight\"} 0\n");
    }

    #[test]
    fn levels_borrow_what_others_do_not_use() {
        let control = Control::new(600);
        let limit = |name: &str| {
            let config = control.config();
            let level = config.levels.iter().find(|l| l.name == name).cloned().expect("there");
            level.set.lock().limit()
        };
        let all: u32 =
            ["catch-all", "system", "node-high", "leader-election", "workload-high", "workload-low", "global-default"]
                .map(limit)
                .iter()
                .sum();
        assert!((598..=604).contains(&all), "{all}");
        let level = control.config().levels.iter().find(|l| l.name == "workload-low").cloned().expect("there");
        let now = control.now();
        for _ in 0..limit("workload-low") {
            let _ = level.set.lock().arrive(now, || 0, 1, || unreachable!("there are seats"));
        }
        control.adjust();
        assert!(limit("workload-low") > 280, "{}", limit("workload-low"));
        assert!(limit("catch-all") >= 13);
    }
}
