//! What was found for a pod, kept for the next that is equal to it.
//!
//! A class is all pods of one template in one profile. For each node it keeps what the local plugins
//! ([`crate::framework::Plugin::is_local`]) said: their refusals, the weighted sum of those ratings that stand alone,
//! and the raw ratings of those that are compared among the nodes that will do. A node whose row changed is judged
//! anew when it is next looked at; nothing else is.

use std::collections::HashMap;

use crate::cluster::Cluster;
use crate::framework::{Cx, Point, State, Verdicts, no_state};
use crate::pod::PodInfo;
use crate::profile::Profile;

/// Classes that are kept.
const MOST: usize = 128;

/// What is kept of one class.
#[derive(Debug, Default)]
pub struct Class {
    seen: u64,
    epoch: (u64, usize, u64),
    stale: Vec<bool>,
    /// What local filters hold against nodes that are not stale.
    pub verdicts: Verdicts,
    /// The weighted ratings that stand alone.
    pub sums: Vec<i64>,
    /// By plugin: raw ratings.
    pub raw: Vec<(usize, Vec<i64>)>,
    sum_of: Vec<usize>,
    used: u64,
    lone: Vec<u32>,
    scores: Vec<i64>,
}

/// All classes.
#[derive(Debug, Default)]
pub struct Classes {
    all: HashMap<(usize, u64), Class>,
    clock: u64,
}

impl Classes {
    /// Takes out the class of a pod, brought up to date; to be given back by [`Classes::put`]. Any other use between
    /// would find it missing, and begin anew.
    pub fn take(&mut self, profile: (usize, &Profile), cluster: &Cluster, pod: &PodInfo) -> Class {
        let key = (profile.0, pod.template.id);
        let mut class = self.all.remove(&key).unwrap_or_default();
        let nodes = &cluster.nodes;
        let epoch = (nodes.images_changed(), nodes.len(), cluster.devices.classes_changed());
        let begun = class.used > 0;
        if !begun {
            for i in profile.1.at(Point::Score).iter().copied().filter(|i| profile.1.plugin(*i).is_local()) {
                if profile.1.plugin(i).normalizes() {
                    class.raw.push((i, Vec::new()));
                } else {
                    class.sum_of.push(i);
                }
            }
        }
        let changed = nodes.changed_since(&mut class.seen);
        class.grow(nodes.width());
        match changed {
            Some(changed) if begun && class.epoch == epoch => {
                changed.iter().for_each(|i| class.stale[*i as usize] = true)
            }
            _ => class.stale.fill(true),
        }
        class.epoch = epoch;
        self.clock += 1;
        class.used = self.clock;
        class
    }

    /// Gives a class back.
    pub fn put(&mut self, profile: usize, pod: &PodInfo, class: Class) {
        if self.all.len() >= MOST
            && let Some(oldest) = self.all.iter().min_by_key(|(_, c)| c.used).map(|(k, _)| *k)
        {
            self.all.remove(&oldest);
        }
        self.all.insert((profile, pod.template.id), class);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.all.clear();
    }
}

impl Class {
    fn grow(&mut self, width: usize) {
        if self.stale.len() < width {
            self.stale.resize(width, true);
            self.sums.resize(width, 0);
            self.verdicts.grow(width);
            self.raw.iter_mut().for_each(|(_, raw)| raw.resize(width, 0));
        }
    }

    /// Judges and rates those of `block` whose rows changed. `filters` are the local filters that are called.
    pub fn refresh(&mut self, profile: &Profile, cx: &Cx<'_>, filters: &[usize], block: &[u32]) {
        let mut lone = std::mem::take(&mut self.lone);
        lone.clear();
        lone.extend(block.iter().copied().filter(|i| self.stale[*i as usize]));
        if lone.is_empty() {
            self.lone = lone;
            return;
        }
        let state: State = no_state();
        for i in &lone {
            self.verdicts.clear(*i as usize);
            self.sums[*i as usize] = 0;
            self.stale[*i as usize] = false;
        }
        for filter in filters {
            profile.plugin(*filter).filter(cx, &state, &lone, &mut self.verdicts);
        }
        lone.retain(|i| self.verdicts.is_fit(*i as usize));
        for plugin in &self.sum_of {
            self.scores.clear();
            self.scores.resize(lone.len(), 0);
            profile.plugin(*plugin).score(cx, &state, &lone, &mut self.scores);
            let weight = profile.weight(*plugin);
            for (i, score) in lone.iter().zip(&self.scores) {
                self.sums[*i as usize] += weight * score;
            }
        }
        for (plugin, raw) in &mut self.raw {
            self.scores.clear();
            self.scores.resize(lone.len(), 0);
            profile.plugin(*plugin).score(cx, &state, &lone, &mut self.scores);
            for (i, score) in lone.iter().zip(&self.scores) {
                raw[*i as usize] = *score;
            }
        }
        self.lone = lone;
    }
}
