//! How many seats each level has: its share of the server's, and what it lends and borrows
//! (`util/flowcontrol/{apf_controller,conc_alloc}.go`). Pure.

use serde_json::Value;

/// What a level's configuration says of seats.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    /// Its shares of the server's seats.
    pub shares: f64,
    /// Percent of its seats that others may use.
    pub lendable: f64,
    /// Percent of its seats that it may borrow at most; no limit where there is none.
    pub borrowing: Option<f64>,
}

impl Shares {
    /// Reads the `limited` or `exempt` part of a spec.
    pub fn read(part: &Value) -> Shares {
        let number = |field: &str| part[field].as_f64();
        Shares {
            shares: number("nominalConcurrencyShares").unwrap_or(30.0),
            lendable: number("lendablePercent").unwrap_or(0.0),
            borrowing: number("borrowingLimitPercent"),
        }
    }
}

/// The bounds of a level's seats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Its share.
    pub nominal: f64,
    /// What it keeps for itself.
    pub least: f64,
    /// What it may have with what it borrows.
    pub most: f64,
}

/// The bounds of every level, of a server with so many seats.
pub fn bounds(server: f64, levels: &[Shares]) -> Vec<Bounds> {
    let all: f64 = levels.iter().map(|l| l.shares).sum::<f64>().max(1.0);
    let of = |level: &Shares| {
        let nominal = (server * level.shares / all).ceil();
        let lendable = (nominal * level.lendable / 100.0).round();
        let borrowing = level.borrowing.map_or(server, |percent| (nominal * percent / 100.0).round());
        Bounds { nominal, least: nominal - lendable, most: nominal + borrowing.min(server) }
    };
    levels.iter().map(of).collect()
}

/// A level when seats are given out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    /// It gets at least this.
    pub least: f64,
    /// And at most this.
    pub most: f64,
    /// It wants this.
    pub target: f64,
}

/// The seats of every level: the same part of what each wants, within its bounds, and in all what the server has.
/// Also that part.
pub fn allocate(server: f64, classes: &[Class]) -> (Vec<f64>, f64) {
    let at = |part: f64| classes.iter().map(move |c| (c.target.max(1e-9) * part).clamp(c.least, c.most.max(c.least)));
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    while at(high).sum::<f64>() < server && high < 1e12 {
        high *= 2.0;
    }
    // The sum grows with the part: sixty halvings are exact enough for whole seats.
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at(middle).sum::<f64>() < server { low = middle } else { high = middle }
    }
    (at(high).map(f64::round).collect(), high)
}

/// The history of a level's demand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoothed(pub f64);

/// Of the old value, each ten seconds.
const KEPT: f64 = 0.977;

impl Smoothed {
    /// Takes in some periods of ten seconds: grows at once, shrinks slowly.
    pub fn update(&mut self, average: f64, deviation: f64, high: f64, periods: f64) -> f64 {
        let envelope = (average + deviation).min(high);
        let kept = KEPT.powf(periods.max(0.0));
        self.0 = envelope.max(kept * self.0 + (1.0 - kept) * envelope);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::defaults;
    use super::*;

    #[test]
    fn default_levels_share_six_hundred_seats() {
        let levels = defaults::levels();
        let shares: Vec<Shares> = levels
            .iter()
            .map(|l| {
                Shares::read(if l["spec"]["type"] == "Exempt" { &l["spec"]["exempt"] } else { &l["spec"]["limited"] })
            })
            .collect();
        let bounds = bounds(600.0, &shares);
        let text: Vec<String> = levels
            .iter()
            .zip(&bounds)
            .map(|(l, b)| {
                format!("{} {} {} {}", l["metadata"]["name"].as_str().unwrap_or(""), b.nominal, b.least, b.most)
            })
            .collect();
        // As a stock server with the default limits tells in its metrics.
        assert_eq!(
            text,
            [
                "exempt 0 0 600",
                "catch-all 13 13 613",
                "system 74 50 674",
                "node-high 98 73 698",
                "leader-election 25 25 625",
                "workload-high 98 49 698",
                "workload-low 245 24 845",
                "global-default 49 24 649",
            ]
        );
    }

    #[test]
    fn seats_go_where_they_are_wanted_and_bounds_hold() {
        let class = |least: f64, most: f64, target: f64| Class { least, most, target };
        let check = |classes: &[Class], expected: &[f64]| assert_eq!(allocate(100.0, classes).0, expected);
        check(&[class(10.0, 100.0, 10.0), class(10.0, 100.0, 30.0)], &[25.0, 75.0]);
        check(&[class(40.0, 100.0, 0.0), class(10.0, 100.0, 90.0)], &[40.0, 60.0]);
        check(&[class(10.0, 30.0, 90.0), class(10.0, 100.0, 10.0)], &[30.0, 70.0]);
        check(&[class(0.0, 10.0, 90.0), class(0.0, 10.0, 10.0)], &[10.0, 10.0]);
    }

    #[test]
    fn demand_is_forgotten_slowly() {
        let mut smoothed = Smoothed::default();
        assert_eq!(smoothed.update(10.0, 5.0, 12.0, 1.0), 12.0);
        let next = smoothed.update(0.0, 0.0, 0.0, 1.0);
        assert!((11.7..11.8).contains(&next), "{next}");
    }
}
