//! The seats and queues of one priority level (`util/flowcontrol/fairqueuing/queueset`). Pure: the clock is an
//! argument, in seconds.
//!
//! A request takes seats while it is served. While seats are free and nobody waits, that is all. Otherwise it waits in
//! the shortest of its flow's queues, and of the heads of all queues the one goes first that would be done first if all
//! queues were served at once (fair queuing by virtual time): a flow that has had much waits for those that had little.

use std::collections::VecDeque;

use super::shuffle;
use super::timing::Timing;

/// How long a request is taken to be served, before it is known: seconds.
const GUESS: f64 = 0.003;

/// Of a level with queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queuing {
    /// How many queues.
    pub queues: usize,
    /// How many of them a flow may use.
    pub hand: usize,
    /// How many requests wait in one at most.
    pub length: usize,
}

/// The seats and queues. `T` is what stands for a request that waits.
pub struct QueueSet<T> {
    queuing: Option<Queuing>,
    queues: Vec<Queue<T>>,
    limit: u32,
    seats: u32,
    executing: u32,
    waiting: usize,
    waiting_seats: u32,
    active: usize,
    /// Virtual time, and when it was computed.
    time: f64,
    at: f64,
    next: u64,
    demand: Demand,
    /// Virtual time of the last dispatch, and at which that request began.
    dispatched: (f64, f64),
    timings: Option<Timings>,
}

/// How long a level was how full.
pub struct Timings {
    /// Seats taken, of those there are.
    pub seats: Timing,
    /// Requests served, of the seats there are.
    pub executing: Timing,
    /// Requests waiting, of those that may.
    pub waiting: Timing,
    /// Seats wanted, of the level's share.
    pub demand: Timing,
}

/// Virtual times, for those who look (`SetDispatchMetrics`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Now.
    pub now: f64,
    /// At the last dispatch.
    pub dispatch: f64,
    /// When the request that went last began.
    pub latest: f64,
    /// Least and most of when the heads of queues would begin.
    pub next: (f64, f64),
    /// The same without what their queues have under way.
    pub discounted: (f64, f64),
}

struct Queue<T> {
    waiting: VecDeque<Waiter<T>>,
    /// Virtual time at which the head begins.
    start: f64,
    executing: u32,
    seats: u32,
}

struct Waiter<T> {
    id: u64,
    width: u32,
    what: T,
}

/// A request being served.
#[derive(Debug, PartialEq)]
pub struct Ticket {
    /// The queue it came through, if it did.
    queue: Option<usize>,
    /// Seats.
    pub width: u32,
    /// When it began.
    pub began: f64,
}

/// What becomes of a request that comes.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    /// It is served.
    Now(Ticket),
    /// It waits, under a number, in a queue of that length.
    Waits(u64, usize),
    /// Its queues are full.
    QueueFull,
    /// There are no seats and no queues.
    NoSeat,
}

/// How many seats were wanted over a period (`util/flowcontrol/seat_demand_stats.go`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    since: f64,
    at: f64,
    value: f64,
    sum: f64,
    squares: f64,
    /// The most.
    pub high: f64,
}

impl Demand {
    fn set(&mut self, now: f64, value: f64) {
        let passed = (now - self.at).max(0.0);
        self.sum += self.value * passed;
        self.squares += self.value * self.value * passed;
        self.at = now;
        self.value = value;
        self.high = self.high.max(value);
    }

    /// Average and standard deviation of the period that ends now, and the most; a new one begins.
    pub fn take(&mut self, now: f64) -> (f64, f64, f64) {
        self.set(now, self.value);
        let passed = now - self.since;
        let (average, high) = match passed > 0.0 {
            true => (self.sum / passed, self.high),
            false => (self.value, self.high),
        };
        let variance = if passed > 0.0 { (self.squares / passed - average * average).max(0.0) } else { 0.0 };
        *self = Demand { since: now, at: now, value: self.value, high: self.value, ..Demand::default() };
        (average, variance.sqrt(), high)
    }
}

impl<T> QueueSet<T> {
    /// Seats, and queues where there are any.
    pub fn new(queuing: Option<Queuing>, limit: u32, now: f64) -> Self {
        let queue = || Queue { waiting: VecDeque::new(), start: 0.0, executing: 0, seats: 0 };
        QueueSet {
            queuing,
            queues: (0..queuing.map_or(0, |q| q.queues)).map(|_| queue()).collect(),
            limit,
            seats: 0,
            executing: 0,
            waiting: 0,
            waiting_seats: 0,
            active: 0,
            time: 0.0,
            at: now,
            next: 0,
            demand: Demand { since: now, at: now, ..Demand::default() },
            dispatched: (0.0, 0.0),
            timings: None,
        }
    }

    /// Counts from now on for how long it is how full. `nominal` is its share of seats.
    pub fn time(&mut self, now: f64, mut timings: Timings, nominal: f64) {
        let places = self.queuing.map_or(0, |q| q.queues * q.length);
        timings.waiting.divide_by(now, places as f64);
        timings.demand.divide_by(now, nominal);
        self.timings = Some(timings);
        self.set_limit(now, self.limit);
    }

    /// Counts the time until now, for those who look.
    pub fn count_time(&mut self, now: f64) {
        if let Some(timings) = &mut self.timings {
            for timing in [&mut timings.seats, &mut timings.executing, &mut timings.waiting, &mut timings.demand] {
                timing.count(now);
            }
        }
    }

    /// Where virtual time stands.
    pub fn progress(&self) -> Progress {
        let bounds = |start: &dyn Fn(&Queue<T>) -> f64| {
            let heads = self.queues.iter().filter(|q| !q.waiting.is_empty()).map(start);
            heads.fold(None, |all: Option<(f64, f64)>, s| Some(all.map_or((s, s), |(a, b)| (a.min(s), b.max(s)))))
        };
        Progress {
            now: self.time,
            dispatch: self.dispatched.0,
            latest: self.dispatched.1,
            next: bounds(&|q| q.start).unwrap_or_default(),
            discounted: bounds(&|q| q.start - f64::from(q.seats) * GUESS).unwrap_or_default(),
        }
    }

    /// Seats taken, requests served, requests waiting.
    pub fn load(&self) -> (u32, u32, usize) {
        (self.seats, self.executing, self.waiting)
    }

    /// Seats there are.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// What was wanted since the last time it was asked.
    pub fn demand(&mut self, now: f64) -> (f64, f64, f64) {
        self.demand.take(now)
    }

    /// Requests waiting, served, seats taken and virtual start of each queue that is not idle.
    pub fn queues(&self) -> impl Iterator<Item = (usize, usize, u32, u32, f64)> + '_ {
        let busy = |(_, q): &(usize, &Queue<T>)| !q.waiting.is_empty() || q.executing > 0;
        let all = self.queues.iter().enumerate().filter(busy);
        all.map(|(i, q)| (i, q.waiting.len(), q.executing, q.seats, q.start))
    }

    /// Shows who waits: queue, place in it, what stands for it, seats.
    pub fn each_waiting(&self, mut show: impl FnMut(usize, usize, &T, u32)) {
        for (index, queue) in self.queues.iter().enumerate() {
            for (place, waiter) in queue.waiting.iter().enumerate() {
                show(index, place, &waiter.what, waiter.width);
            }
        }
    }

    fn advance(&mut self, now: f64) {
        let passed = (now - self.at).max(0.0);
        self.at = now;
        if self.active > 0 {
            let wanted = (self.seats + self.waiting_seats).min(self.limit);
            self.time += passed * f64::from(wanted) / self.active as f64;
        }
    }

    /// What the changes of a moment are counted by.
    fn count(&mut self, now: f64) {
        let wanted = f64::from(self.seats + self.waiting_seats);
        self.demand.set(now, wanted);
        if let Some(timings) = &mut self.timings {
            timings.seats.set(now, f64::from(self.seats));
            timings.executing.set(now, f64::from(self.executing));
            timings.waiting.set(now, self.waiting as f64);
            timings.demand.set(now, wanted);
        }
    }

    fn fits(&self, width: u32) -> bool {
        // A request wider than the level is served alone.
        self.seats + width <= self.limit || (self.seats == 0 && self.limit > 0)
    }

    /// A request comes that takes `width` seats. `what` is made if it has to wait.
    pub fn arrive(&mut self, now: f64, hash: impl FnOnce() -> u64, width: u32, what: impl FnOnce() -> T) -> Arrival {
        if self.waiting == 0 && self.fits(width) {
            self.seats += width;
            self.executing += 1;
            self.count(now);
            return Arrival::Now(Ticket { queue: None, width, began: now });
        }
        let Some(queuing) = self.queuing else { return Arrival::NoSeat };
        self.advance(now);
        let weight = |q: &Queue<T>| q.waiting.iter().map(|w| w.width).sum::<u32>() + q.seats;
        let hand = shuffle::deal(hash(), self.queues.len(), queuing.hand);
        let Some(index) = hand.min_by_key(|i| weight(&self.queues[*i])) else { return Arrival::NoSeat };
        if self.queues[index].waiting.len() >= queuing.length {
            return Arrival::QueueFull;
        }
        let id = self.next;
        self.next += 1;
        let queue = &mut self.queues[index];
        if queue.waiting.is_empty() {
            self.active += 1;
            // Nothing is saved up by being idle.
            queue.start = queue.start.max(self.time);
        }
        queue.waiting.push_back(Waiter { id, width, what: what() });
        let length = queue.waiting.len();
        self.waiting += 1;
        self.waiting_seats += width;
        self.count(now);
        Arrival::Waits(id, length)
    }

    /// A request that waits does so no longer; false if it is not waiting any more.
    pub fn give_up(&mut self, now: f64, id: u64) -> bool {
        self.advance(now);
        for queue in &mut self.queues {
            let Some(at) = queue.waiting.iter().position(|w| w.id == id) else { continue };
            if let Some(waiter) = queue.waiting.remove(at) {
                self.waiting -= 1;
                self.waiting_seats -= waiter.width;
                if queue.waiting.is_empty() {
                    self.active -= 1;
                }
            }
            self.count(now);
            return true;
        }
        false
    }

    /// A request has been served. The seats are given on by [`QueueSet::dispatch`].
    pub fn finish(&mut self, now: f64, ticket: &Ticket) {
        self.advance(now);
        self.seats = self.seats.saturating_sub(ticket.width);
        self.executing = self.executing.saturating_sub(1);
        if let Some(queue) = ticket.queue.and_then(|i| self.queues.get_mut(i)) {
            queue.seats = queue.seats.saturating_sub(ticket.width);
            queue.executing = queue.executing.saturating_sub(1);
            // What it took, in place of what was guessed.
            queue.start += f64::from(ticket.width) * ((now - ticket.began) - GUESS);
        }
        self.count(now);
    }

    /// The number of seats changes.
    pub fn set_limit(&mut self, now: f64, limit: u32) {
        self.advance(now);
        self.limit = limit;
        if let Some(timings) = &mut self.timings {
            timings.seats.divide_by(now, f64::from(limit));
            timings.executing.divide_by(now, f64::from(limit));
        }
    }

    /// The next request that may be served, if there is a seat for it.
    pub fn dispatch(&mut self, now: f64) -> Option<(T, Ticket)> {
        if self.waiting == 0 {
            return None;
        }
        self.advance(now);
        let end = |q: &Queue<T>| q.waiting.front().map(|w| q.start + f64::from(w.width) * GUESS);
        let heads = self.queues.iter().enumerate().filter_map(|(i, q)| Some((i, end(q)?)));
        let (index, _) = heads.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let width = self.queues[index].waiting.front()?.width;
        if !self.fits(width) {
            return None;
        }
        let queue = &mut self.queues[index];
        let waiter = queue.waiting.pop_front()?;
        self.dispatched = (self.time, queue.start);
        queue.start += f64::from(width) * GUESS;
        queue.executing += 1;
        queue.seats += width;
        if queue.waiting.is_empty() {
            self.active -= 1;
        }
        self.waiting -= 1;
        self.waiting_seats -= width;
        self.seats += width;
        self.executing += 1;
        self.count(now);
        Some((waiter.what, Ticket { queue: Some(index), width, began: now }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const QUEUING: Queuing = Queuing { queues: 16, hand: 4, length: 50 };

    fn flow(name: &str) -> u64 {
        shuffle::hash("s", name)
    }

    #[test]
    fn seats_are_taken_and_given_back() {
        let mut set: QueueSet<&str> = QueueSet::new(None, 2, 0.0);
        let Arrival::Now(one) = set.arrive(0.0, || 0, 1, || "one") else { panic!("a seat") };
        let Arrival::Now(_) = set.arrive(0.0, || 0, 1, || "two") else { panic!("a seat") };
        assert_eq!(set.arrive(0.0, || 0, 1, || "three"), Arrival::NoSeat);
        set.finish(1.0, &one);
        assert!(matches!(set.arrive(1.0, || 0, 1, || "three"), Arrival::Now(_)));
        assert_eq!(set.load(), (2, 2, 0));
    }

    #[test]
    fn a_wide_request_waits_for_its_seats_and_a_giant_is_served_alone() {
        let mut set = QueueSet::new(Some(QUEUING), 4, 0.0);
        let Arrival::Now(small) = set.arrive(0.0, || 1, 1, || "small") else { panic!("a seat") };
        assert!(matches!(set.arrive(0.0, || 2, 10, || "giant"), Arrival::Waits(0, 1)));
        assert!(set.dispatch(0.1).is_none());
        // Nobody overtakes while somebody waits.
        assert!(matches!(set.arrive(0.1, || 3, 1, || "late"), Arrival::Waits(1, _)));
        set.finish(0.2, &small);
        let (what, giant) = set.dispatch(0.2).expect("all seats are free");
        assert_eq!(what, "giant");
        assert!(set.dispatch(0.2).is_none());
        set.finish(0.3, &giant);
        assert_eq!(set.dispatch(0.3).map(|(what, _)| what), Some("late"));
    }

    #[test]
    fn queues_are_bounded_and_can_be_left() {
        let mut set = QueueSet::new(Some(Queuing { queues: 1, hand: 1, length: 2 }), 1, 0.0);
        let Arrival::Now(first) = set.arrive(0.0, || 0, 1, || 0) else { panic!("a seat") };
        assert_eq!(set.arrive(0.0, || 0, 1, || 1), Arrival::Waits(0, 1));
        assert_eq!(set.arrive(0.0, || 0, 1, || 2), Arrival::Waits(1, 2));
        assert_eq!(set.arrive(0.0, || 0, 1, || 3), Arrival::QueueFull);
        assert!(set.give_up(1.0, 0) && !set.give_up(1.0, 0));
        set.finish(1.0, &first);
        assert_eq!(set.dispatch(1.0).map(|(what, _)| what), Some(2));
        assert!(!set.give_up(1.0, 1), "it is being served");
    }

    /// One flow keeps a hundred requests waiting, another sends one at a time.
    #[test]
    fn a_light_flow_is_served_beside_a_heavy_one() {
        let mut set = QueueSet::new(Some(QUEUING), 4, 0.0);
        let mut served: BTreeMap<&str, u32> = BTreeMap::new();
        let mut running: Vec<(f64, &str, Ticket)> = Vec::new();
        let (mut now, mut light_waits) = (0.0, false);
        let admit = |set: &mut QueueSet<&'static str>, now: f64, name: &'static str, running: &mut Vec<_>| match set
            .arrive(now, || flow(name), 1, || name)
        {
            Arrival::Now(ticket) => running.push((now + 0.1, name, ticket)),
            Arrival::Waits(..) => {}
            other => panic!("{other:?}"),
        };
        for _ in 0..100 {
            admit(&mut set, now, "heavy", &mut running);
        }
        for _ in 0..400 {
            if !light_waits {
                admit(&mut set, now, "light", &mut running);
                light_waits = true;
            }
            running.sort_by(|a, b| b.0.total_cmp(&a.0));
            let (end, name, ticket) = running.pop().expect("something runs");
            now = end;
            set.finish(now, &ticket);
            *served.entry(name).or_default() += 1;
            if name == "light" {
                light_waits = false;
            } else {
                admit(&mut set, now, "heavy", &mut running);
            }
            while let Some((name, ticket)) = set.dispatch(now) {
                running.push((now + 0.1, name, ticket));
            }
        }
        // In the order they came, the light flow would have one in a hundred.
        let (light, heavy) = (served["light"], served["heavy"]);
        assert!(light >= 35, "light {light}, heavy {heavy}");
    }

    #[test]
    fn demand_is_measured_over_time() {
        let mut demand = Demand::default();
        demand.set(0.0, 4.0);
        demand.set(5.0, 0.0);
        let (average, deviation, high) = demand.take(10.0);
        assert_eq!((average, deviation, high), (2.0, 2.0, 4.0));
        assert_eq!(demand.take(20.0), (0.0, 0.0, 0.0));
    }
}
