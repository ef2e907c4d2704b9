//! From a chosen node to a pod that is bound to it: reserved, allowed, written, seen.

use super::*;

/// Plugins whose leave is to be waited for, and how long.
type Waits = Vec<(&'static str, Duration)>;
/// Who says that a chosen node is not to be had, and why.
type DeniedBy = (Point, &'static str, Denied);

/// Pods whose binding was written and has not been seen yet, in the order of writing.
#[derive(Default)]
pub(super) struct Assumed {
    pub(super) until: HashMap<String, Instant>,
    order: VecDeque<(Instant, String)>,
}

impl Assumed {
    pub(super) fn insert(&mut self, uid: &str, until: Instant) {
        self.until.insert(uid.to_owned(), until);
        self.order.push_back((until, uid.to_owned()));
    }

    pub(super) fn remove(&mut self, uid: &str) {
        self.until.remove(uid);
        // Those seen meanwhile: what is first is due first.
        while self.order.front().is_some_and(|(until, uid)| self.until.get(uid) != Some(until)) {
            self.order.pop_front();
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.order.front().map(|(until, _)| *until)
    }

    /// Takes out what is due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        while let Some((_, uid)) = self.order.front().filter(|(until, _)| *until <= now).cloned() {
            self.remove(&uid);
            due.push(uid);
        }
        due
    }
}

impl Scheduler {
    /// Takes a node for a pod and sends it there, or has it wait for leave to go.
    pub(super) fn send(
        &mut self,
        profile: usize,
        pod: Arc<PodInfo>,
        node: usize,
        permit: OwnedSemaphorePermit,
        start: Instant,
    ) {
        let name = self.algorithm.cluster.nodes.rows.name(node).to_owned();
        self.algorithm.cluster.nodes.place(pod.clone(), &name);
        let nominated = self.algorithm.cluster.nominated.node_of(pod.uid()).cloned();
        self.algorithm.cluster.nominated.remove(pod.uid());
        match self.reserve(profile, &pod, node) {
            Ok(waits) if waits.is_empty() => {
                self.go(profile, pod, &name, Some(permit), start);
            }
            Ok(waits) => {
                self.algorithm.cluster.waiting.add(pod.clone(), &name, waits, start);
                self.tell(Event::PodPlaced(&pod));
                let writer = self.writer.clone();
                self.writer.supervisor.spawn(TaskKind::Worker, "expected node", move |_| async move {
                    writer.expect(&pod, &name).await;
                });
            }
            Err((point, plugin, why)) => {
                self.unreserve(profile, &pod);
                if let Some(node) = nominated {
                    self.algorithm.cluster.nominated.add(&pod, &node);
                }
                match why {
                    Denied::Refused(why) => {
                        let message = only_node(why).message();
                        self.refused(&pod, UNSCHEDULABLE, &message, Nomination::Set(""), vec![plugin], start);
                    }
                    Denied::Failed(why) => {
                        let why = format!("running {point:?} plugin {plugin:?}: {why}");
                        self.refused(&pod, SCHEDULER_ERROR, &why, Nomination::Set(""), vec![], start);
                    }
                }
            }
        }
    }

    /// Asks the plugins of `Reserve` and `Permit`: the plugins whose leave is to be waited for, and how long; or who
    /// refuses, and why.
    fn reserve(&mut self, profile: usize, pod: &Arc<PodInfo>, node: usize) -> Result<Waits, DeniedBy> {
        let Algorithm { profiles, cluster, meters, .. } = &mut self.algorithm;
        let (plugins, meters) = (&profiles[profile], &meters[profile]);
        let status = |denied: &Denied| if matches!(denied, Denied::Refused(_)) { "Unschedulable" } else { "Error" };
        let begun = Instant::now();
        for plugin in plugins.calls(Point::Reserve) {
            if let Err(why) = plugin.reserve(cluster, pod, node) {
                meters.point(Point::Reserve, status(&why), begun.elapsed());
                return Err((Point::Reserve, plugin.name(), why));
            }
        }
        meters.point(Point::Reserve, "Success", begun.elapsed());
        let begun = Instant::now();
        let mut waits = Vec::new();
        for plugin in plugins.calls(Point::Permit) {
            match plugin.permit(cluster, pod, node) {
                Permit::Allow => {}
                Permit::Wait(most) => waits.push((plugin.name(), most)),
                Permit::Deny(why) => {
                    meters.point(Point::Permit, status(&why), begun.elapsed());
                    return Err((Point::Permit, plugin.name(), why));
                }
            }
        }
        meters.point(Point::Permit, if waits.is_empty() { "Success" } else { "Wait" }, begun.elapsed());
        Ok(waits)
    }

    /// Gives back what was taken for a pod.
    fn unreserve(&mut self, profile: usize, pod: &Arc<PodInfo>) {
        let Algorithm { profiles, cluster, .. } = &mut self.algorithm;
        profiles[profile].calls(Point::Reserve).for_each(|p| p.unreserve(cluster, pod));
        cluster.nodes.unplace(pod.uid());
    }

    /// Sends a pod to the node that was taken for it. One that has waited for leave has no permit yet.
    pub(super) fn go(
        &mut self,
        profile: usize,
        pod: Arc<PodInfo>,
        node: &str,
        permit: Option<OwnedSemaphorePermit>,
        start: Instant,
    ) {
        let waited = permit.is_none();
        let Algorithm { profiles, cluster, .. } = &self.algorithm;
        let plugins = &profiles[profile];
        let mut acts: Vec<Act> = Vec::new();
        for plugin in plugins.calls(Point::PreBind) {
            acts.extend(plugin.pre_bind(cluster, &pod, node).map(|act| of_plugin(Point::PreBind, plugin.name(), act)));
        }
        let takes_long = !acts.is_empty();
        let mut bind = plugins
            .calls(Point::Bind)
            .find_map(|plugin| Some(of_plugin(Point::Bind, plugin.name(), plugin.bind(cluster, &pod, node)?)));
        if let Some(extender) = self.extenders.iter().find(|e| e.binds() && e.is_interested(&pod)) {
            let act = extender.bind(&pod, node);
            bind = Some(match bind {
                Some(instead) if extender.is_ignorable() => Box::pin(async move {
                    match act.await {
                        Ok(()) => Ok(()),
                        Err(error) => {
                            warn!(error, "an extender that may be ignored does not bind");
                            instead.await
                        }
                    }
                }),
                _ => act,
            });
        }
        let Some(bind) = bind else { return };
        acts.push(bind);
        if !waited {
            self.tell(Event::PodPlaced(&pod));
        }
        let (writer, permits, levels) = (self.writer.clone(), self.permits.clone(), self.levels.clone());
        let node = node.to_owned();
        self.writer.supervisor.spawn(TaskKind::Worker, "bind", move |_| async move {
            let _permit = match permit {
                Some(permit) => Some(permit),
                // It is never closed.
                None => permits.acquire_owned().await.ok(),
            };
            levels.binding(1.0);
            if takes_long && !waited {
                writer.expect(&pod, &node).await;
            }
            let mut error = None;
            for act in acts {
                if let Err(why) = act.await {
                    error = Some(why);
                    break;
                }
            }
            if error.is_none() {
                let message = format!("Successfully assigned {} to {node}", pod.key());
                let scheduler = &pod.template.scheduler_name;
                writer.event(scheduler, &pod, EventType::Normal, ("Scheduled", "Binding"), message);
                debug!(pod = %pod.key(), node, "bound pod");
            }
            levels.binding(-1.0);
            let is_expected = waited || takes_long;
            // The loop has ended where nobody waits for the answer.
            let _ = writer.messages.send(Message::Bound(Bound { pod, node, start, is_expected, error }));
        });
    }

    pub(super) fn bound(&mut self, bound: &Bound) {
        let pod = &bound.pod;
        let Some(profile) = self.algorithm.profile_of(&pod.template.scheduler_name) else { return };
        let trying = self.queue.trying(pod.uid());
        self.queue.remove(pod.uid());
        let Algorithm { profiles, cluster, meters, .. } = &mut self.algorithm;
        meters[profile].attempt(Outcome::Scheduled, bound.start.elapsed());
        if let Some(trying) = trying {
            meters[profile].bound(trying.attempts, trying.since.elapsed());
        }
        profiles[profile].calls(Point::PostBind).for_each(|p| p.post_bind(cluster, pod, &bound.node));
        cluster.storage.forget(pod.uid(), true);
        cluster.devices.forget(pod.uid());
        let current = self.pods.get(&pod.key()).filter(|p| p.uid() == pod.uid());
        if current.is_some_and(|p| p.node_name.is_empty()) {
            self.assumed.insert(pod.uid(), Instant::now() + ASSUMED_MOST);
        }
    }

    pub(super) fn not_bound(&mut self, bound: &Bound, error: &str) {
        let nomination = if bound.is_expected { Nomination::Clear } else { Nomination::Set("") };
        if let Some(current) = self.give_back(&bound.pod) {
            warn!(pod = %bound.pod.key(), error, "cannot bind pod, trying again");
            self.refused(&current, SCHEDULER_ERROR, error, nomination, vec![], bound.start);
        }
    }

    /// A pod that waited for leave does not get it.
    pub(super) fn turned_away(&mut self, waiting: &WaitingPod, rejection: Rejection) {
        let Some(current) = self.give_back(&waiting.pod) else { return };
        let message = only_node(rejection.message).message();
        // Who makes room for a more important pod has nothing against this one.
        let plugins = if rejection.plugin == default_preemption::NAME { vec![] } else { vec![rejection.plugin] };
        self.refused(&current, UNSCHEDULABLE, &message, Nomination::Clear, plugins, waiting.since);
        if waiting.is_helped(rejection.plugin) {
            self.queue.let_go(current.uid(), true, Instant::now());
        }
    }

    /// Gives back what was taken for a pod that does not go, and tells the others; the pod as the API has it, if it is
    /// there and has no node.
    fn give_back(&mut self, pod: &Arc<PodInfo>) -> Option<Arc<PodInfo>> {
        let profile = self.algorithm.profile_of(&pod.template.scheduler_name)?;
        self.unreserve(profile, pod);
        self.tell(Event::PodGone(pod));
        let current = self.pods.get(&pod.key()).filter(|p| p.uid() == pod.uid());
        match current {
            Some(current) if current.node_name.is_empty() => Some(current),
            // Bound by someone else.
            Some(current) => {
                self.algorithm.cluster.nodes.place(current.clone(), &current.node_name);
                self.queue.remove(pod.uid());
                None
            }
            None => {
                self.queue.remove(pod.uid());
                None
            }
        }
    }
}

/// Names the plugin in what goes wrong.
fn of_plugin(point: Point, plugin: &'static str, act: Act) -> Act {
    Box::pin(async move { act.await.map_err(|why| format!("running {point:?} plugin {plugin:?}: {why}")) })
}

/// What is told of the one node that was chosen and is not to be had.
fn only_node(why: String) -> Unfit {
    Unfit { nodes: 1, reasons: [(why, 1)].into(), ..Unfit::default() }
}
