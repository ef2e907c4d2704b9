//! The loop: when services or slices change, the rules are built and applied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use orkd_base::{Backoff, BoxError, chain};
use orkd_reconcile::{Informer, Informers, Options};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::backends::iptables::{Programs, Settings, render};
use crate::model::{Node, Service, Slice};
use crate::ruleset::{Here, RuleSet, StaleFlow, build};

/// Changes within this time are applied together.
const GATHER: Duration = Duration::from_millis(20);

/// The least time between two writes of the kernel's tables.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// What the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's name: endpoints of it are local.
    pub node_name: String,
    /// What does not come from Services.
    pub settings: Settings,
}

/// One address family's state in the kernel.
struct Family {
    programs: Programs,
    v6: bool,
    applied: Option<RuleSet>,
    chains: BTreeSet<String>,
}

/// Runs until `stop`. Rules stay in the kernel afterwards, so that traffic goes on while orkd restarts.
///
/// # Errors
/// The kernel's tables cannot be read or written at all at the start; later failures are retried.
pub async fn run(config: Config, informers: Informers, stop: CancellationToken) -> Result<(), BoxError> {
    let services: Informer<Service> = informers.informer();
    let slices: Informer<Slice> = informers.informer_with(Options::labels("!service.kubernetes.io/headless"));
    let changed = Arc::new(Notify::new());
    let own = Options::fields(format!("metadata.name={}", config.node_name));
    let nodes: Informer<Node> = informers.informer_with(own);
    let (one, two, three) = (changed.clone(), changed.clone(), changed.clone());
    services.subscribe(move |_| one.notify_one());
    slices.subscribe(move |_| two.notify_one());
    nodes.subscribe(move |event| {
        // Heartbeats move no node to another zone.
        if event.old().is_none_or(|old| old.zone() != event.object().zone()) {
            three.notify_one();
        }
    });
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = async { services.synced().await; slices.synced().await } => {}
    }
    allow_local_node_ports();

    let mut families = vec![family(false)];
    if Programs::new(true).usable().await {
        families.push(family(true));
    }
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    changed.notify_one();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = changed.notified() => {}
        }
        tokio::time::sleep(GATHER).await;
        let started = Instant::now();
        let (all_services, all_slices) = (services.list(), slices.list());
        // The node is not waited for: without its zone everything is reached as well.
        let node = nodes.get_named("", &config.node_name);
        let here = Here { node: &config.node_name, zone: node.as_deref().map_or("", Node::zone) };
        let mut delay = MIN_INTERVAL;
        for family in &mut families {
            let rules = build(all_services.iter().map(|s| &**s), all_slices.iter().map(|s| &**s), here, family.v6);
            if let Err(e) = sync(family, &config.settings, rules).await {
                warn!(error = %chain(&*e), v6 = family.v6, "cannot write service rules, trying again");
                family.applied = None;
                delay = backoff.next_delay();
                changed.notify_one();
            }
        }
        if delay == MIN_INTERVAL {
            backoff.reset();
        }
        debug!(took = ?started.elapsed(), services = all_services.len(), "service rules are up to date");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
}

fn family(v6: bool) -> Family {
    Family { programs: Programs::new(v6), v6, applied: None, chains: BTreeSet::new() }
}

async fn sync(family: &mut Family, settings: &Settings, rules: RuleSet) -> Result<(), BoxError> {
    if family.applied.as_ref() == Some(&rules) {
        return Ok(());
    }
    if family.applied.is_none() {
        if family.v6 && rules.ports.is_empty() {
            return Ok(());
        }
        family.chains = family.programs.present().await?;
    }
    let first = family.applied.is_none();
    let rendered = render(&rules, settings, &family.chains, family.applied.as_ref());
    family.programs.restore(rendered.script).await?;
    if first {
        family.programs.ensure_jumps().await?;
        info!(ports = rules.ports.len(), v6 = family.v6, "service rules are in the kernel");
    }
    let stale = rules.stale_flows(family.applied.as_ref().unwrap_or(&RuleSet::default()));
    family.chains = rendered.chains;
    family.applied = Some(rules);
    // At the first sync it is not known what stood before: flows of a restart go on.
    if !first {
        forget(&stale).await;
    }
    Ok(())
}

/// Removes connection-tracking entries; without the `conntrack` program they time out by themselves.
async fn forget(stale: &[StaleFlow]) {
    for flow in stale {
        let (to, port) = (flow.to.to_string(), flow.port.to_string());
        let mut args = vec!["-D", "-p", "udp", "--orig-dst", &to, "--orig-port-dst", &port];
        let endpoint = flow.endpoint.map(|e| e.ip().to_string());
        if let Some(endpoint) = &endpoint {
            args.extend(["--reply-src", endpoint]);
        }
        // Exit code 1: there was no such entry.
        if let Err(e) = tokio::process::Command::new("conntrack").args(&args).output().await {
            debug!(error = %e, "cannot run conntrack");
            return;
        }
    }
}

/// Node ports answer on 127.0.0.1 as well: packets that get there by a rule must not be taken for forged.
fn allow_local_node_ports() {
    for (name, value) in [("net/ipv4/conf/all/route_localnet", "1"), ("net/ipv4/ip_forward", "1")] {
        let path = std::path::Path::new("/proc/sys").join(name);
        if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
            continue;
        }
        if let Err(e) = std::fs::write(&path, value) {
            warn!(parameter = name, error = %e, "cannot set kernel parameter");
        }
    }
}
