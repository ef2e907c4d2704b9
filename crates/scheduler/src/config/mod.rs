//! The configuration.

use std::time::Duration;

use crate::framework::Point;
use crate::plugins::{self, Args, Doors};
use crate::profile::Profile;
use crate::queue::Backoff;

/// What the scheduler is told.
#[derive(Debug)]
pub struct Config {
    backoff: Backoff,
}

impl Default for Config {
    fn default() -> Self {
        Config { backoff: Backoff { initial: Duration::from_secs(1), most: Duration::from_secs(10) } }
    }
}

impl Config {
    /// How long pods wait after a failure.
    pub fn backoff(&self) -> Backoff {
        self.backoff
    }

    /// The profiles.
    ///
    /// # Errors
    /// A plugin is not known.
    pub fn profiles(&self, doors: &Doors) -> Result<Vec<Profile>, String> {
        Ok(vec![default_profile(doors)])
    }
}

/// The profile of pods that name no other, with all plugins where they belong.
pub fn default_profile(doors: &Doors) -> Profile {
    let mut profile = Profile::new("default-scheduler");
    for (plugin, weight) in plugins::all(Args::default(), doors) {
        let points = plugin.points();
        let at = profile.add(plugin);
        profile.weigh(at, weight.max(1));
        for point in Point::ALL.into_iter().filter(|p| points.contains(p)) {
            profile.call(point, at);
        }
    }
    profile
}
