//! `cargo bench -p orkd-apiserver`: what a request pays for priority and fairness.

use std::sync::Arc;
use std::time::Instant;

use orkd_apiserver::flowcontrol::Control;
use orkd_apiserver::route::RequestInfo;
use orkd_apiserver::user::UserInfo;

const ROUNDS: u32 = 200_000;

fn list() -> RequestInfo {
    RequestInfo {
        is_resource: true,
        verb: "list".into(),
        version: "v1".into(),
        resource: "pods".into(),
        namespace: "default".into(),
        ..RequestInfo::default()
    }
}

async fn measured(control: &Arc<Control>, who: &str, user: &UserInfo, request: &RequestInfo) {
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        if control.enter(user, request, || 1).await.is_err() {
            eprintln!("{who} is refused");
            std::process::exit(1);
        }
    }
    println!("{who:<40} {:>7.0} ns a request", begun.elapsed().as_nanos() as f64 / f64::from(ROUNDS));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let control = Control::new(600);
        let masters = UserInfo::new("root", &["system:masters"]);
        let node = UserInfo::new("system:node:n1", &["system:nodes"]);
        let account = UserInfo::service_account("default", "robot");
        let anyone = UserInfo::new("ann", &[]);
        measured(&control, "exempt (system:masters)", &masters, &list()).await;
        measured(&control, "system (a node)", &node, &list()).await;
        measured(&control, "workload-low (a service account)", &account, &list()).await;
        measured(&control, "global-default (anyone)", &anyone, &list()).await;
    });
}
