//! The one place that spawns.
//!
//! A process has one root [`Supervisor`]; parts of it get a child. Each task has a [`TaskKind`], whose row in
//! [`TaskKind::policy`] says in which [`Stage`] it stops and what its error does. Shutdown cancels the stages in
//! order (front doors, loops, writers, store), waits for each within one grace period, then drops what is left.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

use crate::{Backoff, BoxError, chain};

/// When a task stops, earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Listeners and connections: no new work comes in.
    FrontDoor,
    /// Everything that lives off watches.
    Loops,
    /// What carries changes to the store.
    Writers,
    /// The store itself.
    Store,
}

const STAGES: [Stage; 4] = [Stage::FrontDoor, Stage::Loops, Stage::Writers, Stage::Store];

/// What an error (or a panic) of a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The task runs again after a back-off of 0.2 to 30 seconds.
    Restart,
    /// The process is asked to stop: [`Supervisor::failed`] answers.
    StopProcess,
    /// A log line and nothing else.
    Log,
}

/// What a task is for; decides its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskKind {
    /// Accepts connections.
    Listener,
    /// Serves one connection or one stream.
    Connection,
    /// Keeps a cache by a watch.
    Informer,
    /// A controller, the scheduler, a proxy or DNS loop.
    Controller,
    /// A piece of work of a loop that ends by itself.
    Worker,
    /// A loop of the node agent.
    Node,
    /// Upkeep on a timer: rotation, compaction, metrics.
    Housekeeping,
    /// Supervises a child process.
    Process,
    /// Carries changes to the store.
    Writer,
    /// The store's own thread of work.
    Store,
}

impl TaskKind {
    /// When tasks of the kind stop and what their errors do.
    pub fn policy(self) -> (Stage, OnError) {
        match self {
            TaskKind::Listener => (Stage::FrontDoor, OnError::Restart),
            TaskKind::Connection => (Stage::FrontDoor, OnError::Log),
            TaskKind::Informer | TaskKind::Controller | TaskKind::Node | TaskKind::Housekeeping => {
                (Stage::Loops, OnError::Restart)
            }
            TaskKind::Worker => (Stage::Loops, OnError::Log),
            TaskKind::Process => (Stage::Writers, OnError::Restart),
            TaskKind::Writer => (Stage::Writers, OnError::StopProcess),
            TaskKind::Store => (Stage::Store, OnError::StopProcess),
        }
    }
}

/// Why the process must stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// Name of the task that failed.
    pub task: String,
    /// The chain of its error.
    pub error: String,
}

/// A task that runs, as [`Supervisor::tasks`] lists it.
#[derive(Clone, Debug)]
pub struct RunningTask {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: TaskKind,
    /// How often it was restarted.
    pub restarts: u32,
}

/// A spawned task. Dropping the handle leaves the task alone.
#[derive(Clone, Debug)]
pub struct TaskHandle {
    token: CancellationToken,
    done: CancellationToken,
}

impl TaskHandle {
    /// Asks the task to stop; it sees its token cancelled.
    pub fn cancel(&self) {
        self.token.cancel();
    }

    /// Waits until the task has ended.
    pub async fn wait(&self) {
        self.done.cancelled().await;
    }

    /// Whether the task has ended.
    pub fn is_done(&self) -> bool {
        self.done.is_cancelled()
    }
}

/// Spawns tasks and stops them in order.
///
/// ```
/// # let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
/// # rt.block_on(async {
/// use orkd_base::{BoxError, Supervisor, TaskKind};
/// let supervisor = Supervisor::new();
/// // Runs for good, and again after an error:
/// supervisor.run(TaskKind::Controller, "namespace", |stop| async move {
///     stop.cancelled().await;
///     Ok::<(), BoxError>(())
/// });
/// // Runs once:
/// supervisor.spawn(TaskKind::Worker, "once", |_stop| async move {});
/// supervisor.shutdown(std::time::Duration::from_secs(5)).await;
/// # });
/// ```
#[derive(Clone)]
pub struct Supervisor(Arc<Group>);

struct Group {
    parent: Option<Supervisor>,
    root: Arc<Root>,
    stages: [StageState; 4],
    /// Drops tasks where they stand.
    kill: CancellationToken,
}

struct StageState {
    token: CancellationToken,
    tracker: TaskTracker,
}

struct Root {
    fatal: watch::Sender<Option<Fatal>>,
    tasks: Mutex<BTreeMap<u64, RunningTask>>,
    next_id: AtomicU64,
}

impl Default for Supervisor {
    fn default() -> Self {
        Supervisor::new()
    }
}

impl Supervisor {
    /// The root of a process.
    pub fn new() -> Self {
        let stage = || StageState { token: CancellationToken::new(), tracker: TaskTracker::new() };
        Supervisor(Arc::new(Group {
            parent: None,
            root: Arc::new(Root {
                fatal: watch::Sender::new(None),
                tasks: Mutex::new(BTreeMap::new()),
                next_id: AtomicU64::new(0),
            }),
            stages: [stage(), stage(), stage(), stage()],
            kill: CancellationToken::new(),
        }))
    }

    /// A part that can be shut down by itself and goes down with its parent.
    pub fn child(&self) -> Self {
        let stage =
            |s: Stage| StageState { token: self.0.stages[s as usize].token.child_token(), tracker: TaskTracker::new() };
        Supervisor(Arc::new(Group {
            parent: Some(self.clone()),
            root: self.0.root.clone(),
            stages: STAGES.map(stage),
            kill: self.0.kill.child_token(),
        }))
    }

    /// The token of a stage, for what is not a task.
    pub fn token(&self, stage: Stage) -> CancellationToken {
        self.0.stages[stage as usize].token.child_token()
    }

    /// Runs a task once. It is given its token and should end soon after the token is cancelled. A panic is
    /// treated as the kind's policy treats errors, but the task is not run again.
    pub fn spawn<F, Fut>(&self, kind: TaskKind, name: impl Into<Cow<'static, str>>, task: F) -> TaskHandle
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let entry = self.enter(kind, name.into());
        let handle = entry.handle();
        // In a box: the futures around it would each keep room for it, and most tasks only wait.
        let future = Box::pin(task(entry.token.clone()));
        let span = tracing::info_span!("task", name = %entry.name);
        tokio::spawn(
            async move {
                if let Err(err) = entry
                    .guarded(async {
                        future.await;
                        Ok(())
                    })
                    .await
                {
                    entry.report(&err, kind.policy().1 == OnError::StopProcess);
                }
            }
            .instrument(span),
        );
        handle
    }

    /// Runs a task that lasts: `make` is called for every run. When a run fails, the kind's policy says what
    /// happens; when it ends well the task is over.
    pub fn run<F, Fut, E>(&self, kind: TaskKind, name: impl Into<Cow<'static, str>>, mut make: F) -> TaskHandle
    where
        F: FnMut(CancellationToken) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError> + 'static,
    {
        let entry = self.enter(kind, name.into());
        let handle = entry.handle();
        let span = tracing::info_span!("task", name = %entry.name);
        tokio::spawn(
            async move {
                let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
                loop {
                    let started = Instant::now();
                    let run = Box::pin(make(entry.token.clone()));
                    let Err(err) = entry.guarded(async { run.await.map_err(Into::into) }).await else { return };
                    if entry.token.is_cancelled() {
                        return;
                    }
                    let on_error = kind.policy().1;
                    entry.report(&err, on_error == OnError::StopProcess);
                    if on_error != OnError::Restart {
                        return;
                    }
                    if started.elapsed() > Duration::from_secs(60) {
                        backoff.reset();
                    }
                    let delay = backoff.next_delay();
                    tokio::select! {
                        biased;
                        () = entry.token.cancelled() => return,
                        () = tokio::time::sleep(delay) => {}
                    }
                    if let Some(task) = entry.group.root.tasks.lock().get_mut(&entry.id) {
                        task.restarts += 1;
                    }
                }
            }
            .instrument(span),
        );
        handle
    }

    /// Waits until a task failed whose kind stops the process.
    pub async fn failed(&self) -> Fatal {
        let mut fatal = self.0.root.fatal.subscribe();
        loop {
            if let Some(fatal) = fatal.borrow_and_update().clone() {
                return fatal;
            }
            if fatal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Asks the process to stop because of an error found outside a task.
    pub fn fail(&self, task: impl Into<String>, error: impl Into<BoxError>) {
        let error = error.into();
        self.0.root.fail(Fatal { task: task.into(), error: chain(&*error).to_string() });
    }

    /// What runs now, in the order of spawning, parents and siblings included.
    pub fn tasks(&self) -> Vec<RunningTask> {
        self.0.root.tasks.lock().values().cloned().collect()
    }

    /// Stops the stages in order; each may use what is left of `grace`. Then drops what has not ended. Returns
    /// whether all ended by themselves. Calling it again waits again.
    pub async fn shutdown(&self, grace: Duration) -> bool {
        let deadline = Instant::now() + grace;
        let mut clean = true;
        for state in &self.0.stages {
            state.token.cancel();
            state.tracker.close();
            clean &= tokio::time::timeout_at(deadline, state.tracker.wait()).await.is_ok();
        }
        if !clean {
            let left: Vec<String> = self.tasks().into_iter().map(|t| t.name).collect();
            tracing::warn!(tasks = ?left, "tasks did not end in time and are dropped");
            self.0.kill.cancel();
            for state in &self.0.stages {
                // A task that never yields cannot be dropped; the process ends without it.
                let _ = tokio::time::timeout(Duration::from_millis(500), state.tracker.wait()).await;
            }
        }
        clean
    }

    fn enter(&self, kind: TaskKind, name: Cow<'static, str>) -> Entry {
        let stage = kind.policy().0 as usize;
        let mut counted = Vec::with_capacity(2);
        let mut group = Some(self);
        while let Some(g) = group {
            counted.push(g.0.stages[stage].tracker.token());
            group = g.0.parent.as_ref();
        }
        let id = self.0.root.next_id.fetch_add(1, Ordering::Relaxed);
        self.0.root.tasks.lock().insert(id, RunningTask { name: name.to_string(), kind, restarts: 0 });
        Entry {
            id,
            name,
            group: self.0.clone(),
            token: self.0.stages[stage].token.child_token(),
            done: CancellationToken::new(),
            _counted: counted,
        }
    }
}

impl Root {
    fn fail(&self, fatal: Fatal) {
        self.fatal.send_if_modified(|slot| {
            let first = slot.is_none();
            if first {
                *slot = Some(fatal);
            }
            first
        });
    }
}

/// A task's place in the books; leaving is dropping.
struct Entry {
    id: u64,
    name: Cow<'static, str>,
    group: Arc<Group>,
    token: CancellationToken,
    done: CancellationToken,
    _counted: Vec<TaskTrackerToken>,
}

impl Entry {
    fn handle(&self) -> TaskHandle {
        TaskHandle { token: self.token.clone(), done: self.done.clone() }
    }

    /// Runs until the end, the kill switch (which counts as a good end) or a panic (which becomes an error).
    async fn guarded(&self, future: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
        let mut future = pin!(future);
        let caught =
            std::future::poll_fn(|cx| match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                Ok(poll) => poll,
                Err(panic) => Poll::Ready(Err(panic_text(&*panic).into())),
            });
        tokio::select! {
            biased;
            () = self.group.kill.cancelled() => Ok(()),
            result = caught => result,
        }
    }

    fn report(&self, err: &BoxError, fatal: bool) {
        let error = chain(&**err).to_string();
        tracing::error!(task = %self.name, %error, "task failed");
        if fatal {
            self.group.root.fail(Fatal { task: self.name.to_string(), error });
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.group.root.tasks.lock().remove(&self.id);
        self.done.cancel();
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    format!("panicked: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn stages_stop_in_order() {
        runtime().block_on(async {
            let supervisor = Supervisor::new();
            let order = Arc::new(Mutex::new(Vec::new()));
            for (kind, name) in
                [(TaskKind::Store, "store"), (TaskKind::Controller, "loop"), (TaskKind::Listener, "door")]
            {
                let order = order.clone();
                supervisor.spawn(kind, name, move |stop| async move {
                    stop.cancelled().await;
                    order.lock().push(name);
                });
            }
            assert!(supervisor.shutdown(Duration::from_secs(5)).await);
            assert_eq!(*order.lock(), ["door", "loop", "store"]);
            assert!(supervisor.tasks().is_empty());
        });
    }

    #[test]
    fn a_child_stops_alone_and_its_parent_waits_for_it() {
        runtime().block_on(async {
            let parent = Supervisor::new();
            let child = parent.child();
            let of_parent = parent.spawn(TaskKind::Controller, "p", |stop| async move { stop.cancelled().await });
            let of_child = child.spawn(TaskKind::Controller, "c", |stop| async move { stop.cancelled().await });
            assert!(child.shutdown(Duration::from_secs(5)).await);
            assert!(of_child.is_done() && !of_parent.is_done());
            assert!(parent.shutdown(Duration::from_secs(5)).await);
        });
    }

    #[test]
    fn a_failing_task_runs_again_and_a_panic_is_a_failure() {
        runtime().block_on(async {
            let supervisor = Supervisor::new();
            let runs = Arc::new(AtomicU64::new(0));
            let counter = runs.clone();
            let handle = supervisor.run(TaskKind::Controller, "flaky", move |_| {
                let n = counter.fetch_add(1, Ordering::SeqCst);
                async move {
                    match n {
                        0 => Err("not yet".to_owned()),
                        1 => panic!("worse"),
                        _ => Ok(()),
                    }
                }
            });
            tokio::time::timeout(Duration::from_secs(10), handle.wait()).await.expect("the third run ends well");
            assert_eq!(runs.load(Ordering::SeqCst), 3);
        });
    }

    #[test]
    fn a_failed_store_stops_the_process() {
        runtime().block_on(async {
            let supervisor = Supervisor::new();
            supervisor.child().run(TaskKind::Store, "store", |_| async { Err::<(), _>("disk gone") });
            let fatal = tokio::time::timeout(Duration::from_secs(10), supervisor.failed()).await.expect("fatal");
            assert_eq!(fatal, Fatal { task: "store".into(), error: "disk gone".into() });
        });
    }

    #[test]
    fn what_does_not_end_is_dropped() {
        runtime().block_on(async {
            let supervisor = Supervisor::new();
            let handle = supervisor.spawn(TaskKind::Worker, "deaf", |_| std::future::pending());
            assert!(!supervisor.shutdown(Duration::from_millis(20)).await);
            assert!(handle.is_done());
        });
    }
}
