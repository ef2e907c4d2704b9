//! `/debug/api_priority_and_fairness/*`: what levels, queues and requests do now (`apf_controller_debug.go`).

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::control::Control;

/// The text of a dump: `dump_priority_levels`, `dump_queues` or `dump_requests`.
pub fn dump(control: &Control, what: &str) -> Option<String> {
    let config = control.config();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut head = |text: &str| rows.push(text.split(',').map(str::to_owned).collect());
    match what {
        "dump_priority_levels" => {
            head(
                "PriorityLevelName,ActiveQueues,IsIdle,IsQuiescing,WaitingRequests,ExecutingRequests,DispatchedRequests,\
                 RejectedRequests,TimedoutRequests,CancelledRequests",
            );
            for level in &config.levels {
                let (active, (_, executing, waiting)) = {
                    let set = level.set.lock();
                    (set.queues().filter(|q| q.1 > 0).count(), set.load())
                };
                let count = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed).to_string();
                let c = &level.counts;
                rows.push(vec![
                    level.name.clone(),
                    active.to_string(),
                    (executing == 0 && waiting == 0).to_string(),
                    "false".into(),
                    waiting.to_string(),
                    executing.to_string(),
                    count(&c.dispatched),
                    count(&c.rejected),
                    count(&c.timed_out),
                    count(&c.cancelled),
                ]);
            }
        }
        "dump_queues" => {
            head("PriorityLevelName,Index,PendingRequests,ExecutingRequests,SeatsInUse,NextDispatchR");
            for level in &config.levels {
                for (index, waiting, executing, seats, start) in level.set.lock().queues() {
                    rows.push(vec![
                        level.name.clone(),
                        index.to_string(),
                        waiting.to_string(),
                        executing.to_string(),
                        seats.to_string(),
                        format!("{start:.8}ss"),
                    ]);
                }
            }
        }
        "dump_requests" => {
            head("PriorityLevelName,FlowSchemaName,QueueIndex,RequestIndexInQueue,FlowDistingsher,InitialSeats");
            for level in config.levels.iter().filter(|l| !l.exempt) {
                level.set.lock().each_waiting(|queue, index, (_, flow), width| {
                    let (schema, distinguisher) = flow.split_once(", ").unwrap_or((flow, ""));
                    rows.push(vec![
                        level.name.clone(),
                        schema.to_owned(),
                        queue.to_string(),
                        index.to_string(),
                        distinguisher.to_owned(),
                        width.to_string(),
                    ]);
                });
            }
        }
        _ => return None,
    }
    Some(table(&rows))
}

/// Columns of equal width, as Go's tab writer makes them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |i: usize| rows.iter().map(|r| r.get(i).map_or(0, |c| c.len() + 2)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        for (i, cell) in row.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = match i + 1 == columns {
                true => writeln!(out, "{cell}"),
                false => write!(out, "{:<width$}", format!("{cell},"), width = widths[i]),
            };
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_listed() {
        let control = Control::new(600);
        let text = dump(&control, "dump_priority_levels").expect("known");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 9);
        assert!(lines[0].starts_with("PriorityLevelName, ActiveQueues, IsIdle, "), "{text}");
        assert!(lines[1].starts_with("catch-all,         0,            true,   false,"), "{text}");
        assert!(dump(&control, "dump_queues").is_some_and(|t| t.lines().count() == 1));
        assert!(dump(&control, "dump_requests").is_some_and(|t| t.lines().count() == 1));
        assert!(dump(&control, "dump_everything").is_none());
    }
}
