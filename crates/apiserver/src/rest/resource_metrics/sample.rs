//! What a kubelet says its node and its containers used until now: its `/metrics/resource`, read (pure).
//!
//! Upstream: `pkg/scraper/client/resource/decode.go` of `sigs.k8s.io/metrics-server`.

use std::collections::HashMap;

/// What something used until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// The moment, in milliseconds since 1970.
    pub at: i64,
    /// When it started, in milliseconds since 1970, where that is said.
    pub started: Option<i64>,
    /// Nanoseconds of all cores since it started.
    pub cpu: u64,
    /// Bytes of memory that it holds.
    pub memory: u64,
}

/// The containers of a pod, by name.
pub type Containers = HashMap<Box<str>, Point>;

/// What a node and its pods used until a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The node.
    pub node: Option<Point>,
    /// The containers of its pods, by `NAMESPACE/NAME`.
    pub pods: HashMap<Box<str>, Containers>,
}

/// What is known of a point while the text is read.
#[derive(Default)]
struct Partial {
    cpu: Option<(f64, i64)>,
    memory: Option<f64>,
    started: Option<f64>,
}

impl Partial {
    /// The point, if CPU and memory are both known.
    fn point(&self) -> Option<Point> {
        let ((cpu, at), memory) = (self.cpu?, self.memory?);
        Some(Point {
            at,
            started: self.started.filter(|s| *s > 0.0).map(|s| whole(s * 1e3).cast_signed()),
            cpu: whole(cpu * 1e9),
            memory: whole(memory),
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and what is below 0 is 0")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// Reads the text; `now` is the moment of values that carry none. What is not understood is passed over, and a pod of
/// which a container is known by half is left out.
pub fn parse(text: &str, now: i64) -> Sample {
    let mut node = Partial::default();
    let mut pods: HashMap<String, HashMap<String, Partial>> = HashMap::new();
    for line in text.lines() {
        let Some(Line { name, labels, value, at }) = read(line) else { continue };
        let label = |wanted: &str| labels.iter().find(|(k, _)| *k == wanted).map_or("", |(_, v)| v.as_str());
        let Some((of, what)) = name.split_once('_') else { continue };
        if !matches!(what, "cpu_usage_seconds_total" | "memory_working_set_bytes" | "start_time_seconds") {
            continue;
        }
        let partial = match of {
            "node" => &mut node,
            "container" => {
                let pod = format!("{}/{}", label("namespace"), label("pod"));
                pods.entry(pod).or_default().entry(label("container").to_owned()).or_default()
            }
            _ => continue,
        };
        match what {
            "cpu_usage_seconds_total" => partial.cpu = Some((value, at.unwrap_or(now))),
            "memory_working_set_bytes" => partial.memory = Some(value),
            _ => partial.started = Some(value),
        }
    }
    let whole = |containers: HashMap<String, Partial>| -> Option<Containers> {
        containers.into_iter().map(|(name, partial)| Some((name.into(), partial.point()?))).collect()
    };
    let pods = pods.into_iter().filter_map(|(pod, containers)| Some((pod.into(), whole(containers)?))).collect();
    Sample { node: node.point(), pods }
}

/// One value of the text form of Prometheus.
struct Line<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: f64,
    at: Option<i64>,
}

/// `NAME{LABEL="VALUE",...} VALUE [MILLISECONDS]`
fn read(line: &str) -> Option<Line<'_>> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    if let Some(after) = rest.strip_prefix('{') {
        rest = after;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.push((label.trim(), value));
            rest = after;
        }
    }
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let at = words.next().map(str::parse).transpose().ok()?;
    (!name.is_empty()).then_some(Line { name, labels, value, at })
}

/// A value up to its closing quote, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut out = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((out, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(text: &str) -> Sample {
        parse(text, 7)
    }

    #[test]
    fn a_kubelets_text_is_read() {
        let text = r#"
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 1767225660000
container_cpu_usage_seconds_total{container="aside",namespace="ns",pod="p"} 2e-05 1767225660001
container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 1.048576e+06 1767225660000
container_memory_working_set_bytes{container="aside",namespace="ns",pod="p"} 4096 1767225660000
container_start_time_seconds{container="c",namespace="ns",pod="p"} 1.7672256e+09
container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 0 1767225660000
node_cpu_usage_seconds_total 100.25 1767225660000
node_memory_working_set_bytes 8192
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5 1767225660000
resource_scrape_error 0
"#;
        let got = sample(text);
        let at = 1_767_225_660_000;
        assert_eq!(got.node, Some(Point { at, started: None, cpu: 100_250_000_000, memory: 8192 }));
        let pod = &got.pods["ns/p"];
        let started = Some(1_767_225_600_000);
        assert_eq!(pod["c"], Point { at, started, cpu: 1_500_000_000, memory: 1 << 20 });
        assert_eq!(pod["aside"], Point { at: at + 1, started: None, cpu: 20_000, memory: 4096 });
        assert_eq!((got.pods.len(), pod.len()), (1, 2));
    }

    #[test]
    fn what_is_known_by_half_is_left_out() {
        let cpu =
            |c: &str| format!("container_cpu_usage_seconds_total{{container=\"{c}\",namespace=\"n\",pod=\"p\"}} 1\n");
        let memory =
            |c: &str| format!("container_memory_working_set_bytes{{container=\"{c}\",namespace=\"n\",pod=\"p\"}} 1\n");
        assert_eq!(sample(&[cpu("a"), memory("a")].concat()).pods["n/p"]["a"].at, 7);
        assert!(sample(&[cpu("a"), memory("a"), cpu("b")].concat()).pods.is_empty());
        assert_eq!(sample("node_cpu_usage_seconds_total 1\n").node, None);
    }

    #[test]
    fn anything_is_passed_over() {
        for text in ["", "{", "a{", "a{b", "a{b=\"", "a{b=\"\\", "a{b=\"c\"", "a{} x", "a 1 x", "=", "é 1", "a{}}} 1"]
        {
            assert_eq!(sample(text), Sample::default(), "{text}");
        }
        let line = read(r#"a{b="x\"y\\z\n", c="d",} NaN 12"#).expect("a line");
        assert_eq!(line.labels, [("b", "x\"y\\z\n".to_owned()), ("c", "d".to_owned())]);
        assert!(line.value.is_nan() && line.at == Some(12));
    }
}
