//! `/healthz`, `/livez`, `/readyz` (`server/healthz`).

use std::fmt::Write;

use http::Response;

use crate::Body;
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::respond;

/// Answers a health path, whole or of one check.
pub async fn serve(server: &ApiServer, segments: &[&str], query: &Query) -> Option<Response<Body>> {
    let name = segments[0];
    let mut checks: Vec<(String, Result<(), String>)> = vec![("ping".into(), Ok(())), ("log".into(), Ok(()))];
    let etcd = match server.store().current_revision().await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    checks.push(("etcd".into(), etcd));
    // Upstream asks key management services in all three.
    for (check, ready) in server.checks() {
        if name == "readyz" || check.starts_with("kms-provider") {
            checks.push((check.clone(), ready()));
        }
    }
    if name == "readyz" {
        checks.push(("informer-sync".into(), Ok(())));
        let stopping = server.stopping().is_cancelled();
        checks.push(("shutdown".into(), if stopping { Err("process is shutting down".into()) } else { Ok(()) }));
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    match segments {
        [_] => Some(whole(name, &checks, &excluded, query.get("verbose").is_some())),
        [_, one @ ..] => {
            let wanted = one.join("/");
            let (_, outcome) = checks.iter().find(|(n, _)| *n == wanted)?;
            Some(match outcome {
                Ok(()) => respond::text(200, "ok"),
                Err(why) => respond::text(500, format!("internal server error: {why}\n")),
            })
        }
        [] => None,
    }
}

fn whole(name: &str, checks: &[(String, Result<(), String>)], excluded: &[&str], verbose: bool) -> Response<Body> {
    let mut text = String::new();
    let mut failed = false;
    for (check, outcome) in checks {
        if excluded.contains(&check.as_str()) {
            let _ = writeln!(text, "[+]{check} excluded: ok");
            continue;
        }
        match outcome {
            Ok(()) => {
                let _ = writeln!(text, "[+]{check} ok");
            }
            Err(_) => {
                failed = true;
                let _ = writeln!(text, "[-]{check} failed: reason withheld");
            }
        }
    }
    match (failed, verbose) {
        (true, _) => respond::text(500, format!("{text}{name} check failed\n")),
        (false, true) => respond::text(200, format!("{text}{name} check passed\n")),
        (false, false) => respond::text(200, "ok"),
    }
}
