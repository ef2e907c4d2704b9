//! What servers that are asked as well leave of nodes and victims, and how they rate.

use super::*;

impl Scheduler {
    fn names(&self, nodes: &[u32]) -> Vec<String> {
        let rows = &self.algorithm.cluster.nodes.rows;
        nodes.iter().map(|i| rows.name(*i as usize).to_owned()).collect()
    }

    /// Leaves the nodes that the extenders leave (`findNodesThatPassExtenders`).
    pub(super) async fn ask_extenders(&self, pod: &PodInfo, mut found: Found) -> Result<Found, (NotFound, Prepared)> {
        let nodes = &self.algorithm.cluster.nodes;
        let mut unfit = found.refused.take().unwrap_or_else(|| Unfit { nodes: nodes.len(), ..Unfit::default() });
        for extender in self.extenders.iter().filter(|e| e.filters() && e.is_interested(pod)) {
            if found.feasible.is_empty() {
                break;
            }
            let filtered = match extender.filter(pod, &self.names(&found.feasible)).await {
                Ok(filtered) => filtered,
                Err(error) if extender.is_ignorable() => {
                    warn!(extender = extender.name(), error, "an extender that may be ignored failed");
                    continue;
                }
                Err(error) => return Err((NotFound::Failed(error), found.prepared)),
            };
            for (node, why, hopeless) in filtered.refused {
                *unfit.reasons.entry(why).or_default() += 1;
                if !hopeless && let Some(i) = nodes.position(&node) {
                    unfit.resolvable.push(i as u32);
                }
            }
            found.feasible.retain(|i| filtered.fit.iter().any(|n| n == nodes.rows.name(*i as usize)));
        }
        if found.feasible.is_empty() {
            unfit.plugins.push(EXTENDER);
            return Err((NotFound::Unfit(unfit), found.prepared));
        }
        Ok(found)
    }

    /// Adds what the extenders say. One that fails is left out.
    pub(super) async fn rate_by_extenders(&self, pod: &PodInfo, feasible: &[u32], totals: &mut [i64]) {
        for extender in self.extenders.iter().filter(|e| e.rates() && e.is_interested(pod)) {
            let names = self.names(feasible);
            match extender.rate(pod, &names).await {
                Ok(points) => {
                    for (name, total) in names.iter().zip(totals.iter_mut()) {
                        *total = total.saturating_add(points.get(name).copied().unwrap_or(0));
                    }
                }
                Err(error) => debug!(extender = extender.name(), error, "an extender gives no rating"),
            }
        }
    }

    /// Leaves the candidates for preemption that the extenders leave (`callExtenders`).
    pub(super) async fn left_by_extenders(
        &self,
        pod: &PodInfo,
        mut candidates: Vec<Candidate>,
    ) -> Result<Vec<Candidate>, String> {
        for extender in self.extenders.iter().filter(|e| e.preempts() && e.is_interested(pod)) {
            match extender.preempt(pod, &candidates, &self.algorithm.cluster.nodes).await {
                Ok(left) => candidates = left,
                Err(error) if extender.is_ignorable() => {
                    warn!(extender = extender.name(), error, "an extender that may be ignored failed");
                }
                Err(error) => return Err(error),
            }
            if candidates.is_empty() {
                break;
            }
        }
        Ok(candidates)
    }
}
