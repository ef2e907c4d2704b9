//! A profile: which plugins are called where, for the pods of one `schedulerName`.

use crate::framework::{Plugin, Point};

/// A profile.
pub struct Profile {
    /// Pods with this `schedulerName` are its own.
    pub name: String,
    plugins: Vec<Box<dyn Plugin>>,
    /// By point: positions in `plugins`, in the order they are called.
    at: [Vec<usize>; Point::ALL.len()],
    /// By position in `plugins`: what a point of its score is worth.
    weights: Vec<i64>,
    /// How many of the nodes are looked for; 0 for a share that depends on their number.
    pub percentage: i64,
}

impl Profile {
    /// A profile without plugins.
    pub fn new(name: &str) -> Profile {
        Profile { name: name.into(), plugins: Vec::new(), at: Default::default(), weights: Vec::new(), percentage: 0 }
    }

    /// Adds a plugin that is called nowhere yet; its position.
    pub fn add(&mut self, plugin: Box<dyn Plugin>) -> usize {
        self.plugins.push(plugin);
        self.weights.push(1);
        self.plugins.len() - 1
    }

    /// Has a plugin called at a point, after those that are called there already.
    pub fn call(&mut self, at: Point, plugin: usize) {
        self.at[at as usize].push(plugin);
    }

    /// Says what a point of a plugin's score is worth.
    pub fn weigh(&mut self, plugin: usize, weight: i64) {
        self.weights[plugin] = weight;
    }

    /// Positions of the plugins that are called at a point.
    pub fn at(&self, point: Point) -> &[usize] {
        &self.at[point as usize]
    }

    /// The plugins that are called at a point.
    pub fn calls(&self, point: Point) -> impl Iterator<Item = &dyn Plugin> {
        self.at(point).iter().map(|i| &*self.plugins[*i])
    }

    /// A plugin by its position.
    pub fn plugin(&self, i: usize) -> &dyn Plugin {
        &*self.plugins[i]
    }

    /// A plugin by its name.
    pub fn named(&self, name: &str) -> Option<&dyn Plugin> {
        self.plugins.iter().find(|p| p.name() == name).map(|p| &**p)
    }

    /// What a point of a plugin's score is worth.
    pub fn weight(&self, i: usize) -> i64 {
        self.weights[i]
    }

    /// How many plugins there are.
    pub fn len(&self) -> usize {
        self.plugins.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }
}
