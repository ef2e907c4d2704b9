//! The metrics of flow control, under upstream's names.

use orkd_base::metrics::{Counter, Family, Gauge, Histogram};

const BOTH: &[&str] = &["flow_schema", "priority_level"];
const LEVEL: &[&str] = &["priority_level"];
const SECONDS: &[f64] = &[0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];

macro_rules! families {
    ($($name:ident: $kind:ident $make:ident($text:literal, $help:literal, $labels:expr $(, $bounds:expr)?);)*) => {
        $(pub(super) static $name: Family<$kind> =
            Family::$make(concat!("apiserver_flowcontrol_", $text), $help, $labels $(, $bounds)?);)*
    };
}

families! {
    REJECTED: Counter counter("rejected_requests_total",
        "[BETA] Number of requests rejected by API Priority and Fairness subsystem",
        &["flow_schema", "priority_level", "reason"]);
    DISPATCHED: Counter counter("dispatched_requests_total",
        "[BETA] Number of requests executed by API Priority and Fairness subsystem", BOTH);
    INQUEUE: Gauge gauge("current_inqueue_requests",
        "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem", BOTH);
    INQUEUE_SEATS: Gauge gauge("current_inqueue_seats",
        "[ALPHA] Number of seats currently pending in queues of the API Priority and Fairness subsystem", BOTH);
    NO_ACCOMMODATION: Counter counter("request_dispatch_no_accommodation_total",
        "[ALPHA] Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats", BOTH);
    SEAT_USE: Histogram histogram("priority_level_seat_utilization",
        "[ALPHA] Observations, at the end of every nanosecond, of utilization of seats for any stage of execution (but only \
         initial stage for WATCHes)", &["phase", "priority_level"],
        &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0]);
    REQUEST_USE: Histogram histogram("priority_level_request_utilization",
        "[ALPHA] Observations, at the end of every nanosecond, of number of requests (as a fraction of the relevant limit) \
         waiting or in any stage of execution (but only initial stage for WATCHes)", &["phase", "priority_level"],
        &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0]);
    DEMAND: Histogram histogram("demand_seats",
        "[ALPHA] Observations, at the end of every nanosecond, of (the number of seats each priority level could use) / \
         (nominal number of seats for that level)", LEVEL,
        &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0]);
    CURRENT_R: Gauge gauge("current_r", "[ALPHA] R(time of last change)", LEVEL);
    DISPATCH_R: Gauge gauge("dispatch_r", "[ALPHA] R(time of last dispatch)", LEVEL);
    LATEST_S: Gauge gauge("latest_s", "[ALPHA] S(most recently dispatched request)", LEVEL);
    NEXT_S: Gauge gauge("next_s_bounds",
        "[ALPHA] min and max, over queues, of S(oldest waiting request in queue)", &["bound", "priority_level"]);
    NEXT_DISCOUNTED_S: Gauge gauge("next_discounted_s_bounds",
        "[ALPHA] min and max, over queues, of S(oldest waiting request in queue) - estimated work in progress",
        &["bound", "priority_level"]);
    EXECUTING: Gauge gauge("current_executing_requests",
        "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority \
         and Fairness subsystem", BOTH);
    EXECUTING_SEATS: Gauge gauge("current_executing_seats",
        "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage \
         otherwise) requests in the API Priority and Fairness subsystem", BOTH);
    WAIT: Histogram histogram("request_wait_duration_seconds",
        "[BETA] Length of time a request spent waiting in its queue",
        &["execute", "flow_schema", "priority_level"], SECONDS);
    EXECUTION: Histogram histogram("request_execution_seconds",
        "[ALPHA] Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API \
         Priority and Fairness subsystem", &["flow_schema", "priority_level", "type"], SECONDS);
    QUEUE_LENGTH: Histogram histogram("request_queue_length_after_enqueue",
        "[ALPHA] Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued",
        BOTH, &[0.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0]);
    SEATS: Histogram histogram("work_estimated_seats",
        "[ALPHA] Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority \
         and Fairness", BOTH, &[1.0, 2.0, 4.0, 10.0]);
    NOMINAL: Gauge gauge("nominal_limit_seats",
        "[BETA] Nominal number of execution seats configured for each priority level", LEVEL);
    LOWER: Gauge gauge("lower_limit_seats",
        "[ALPHA] Configured lower bound on number of execution seats available to each priority level", LEVEL);
    UPPER: Gauge gauge("upper_limit_seats",
        "[ALPHA] Configured upper bound on number of execution seats available to each priority level", LEVEL);
    CURRENT: Gauge gauge("current_limit_seats",
        "[ALPHA] current derived number of execution seats available to each priority level", LEVEL);
    DEMAND_HIGH: Gauge gauge("demand_seats_high_watermark",
        "[ALPHA] High watermark, over last adjustment period, of demand_seats", LEVEL);
    DEMAND_AVERAGE: Gauge gauge("demand_seats_average",
        "[ALPHA] Time-weighted average, over last adjustment period, of demand_seats", LEVEL);
    DEMAND_DEVIATION: Gauge gauge("demand_seats_stdev",
        "[ALPHA] Time-weighted standard deviation, over last adjustment period, of demand_seats", LEVEL);
    DEMAND_SMOOTHED: Gauge gauge("demand_seats_smoothed", "[ALPHA] Smoothed seat demands", LEVEL);
    TARGET: Gauge gauge("target_seats", "[ALPHA] Seat allocation targets", LEVEL);
    FAIR_PART: Gauge gauge("seat_fair_frac", "[ALPHA] Fair fraction of server's concurrency to allocate to each priority level \
         that can use it", &[]);
}
