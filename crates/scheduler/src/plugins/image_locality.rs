//! A node that has the pod's images is better, the more so the larger and the more widespread they are. Upstream:
//! `plugins/imagelocality`.

use crate::framework::{Cx, MAX_SCORE, Plugin, Point, State};

const MIB: i64 = 1024 * 1024;
const LEAST: i64 = 23 * MIB;
const MOST: i64 = 1000 * MIB;

/// See the module.
pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn points(&self) -> &'static [Point] {
        &[Point::Score]
    }

    /// What other nodes have counts too; results are dropped whenever any image comes or goes.
    fn is_local(&self) -> bool {
        true
    }

    fn score(&self, cx: &Cx<'_>, _state: &State, nodes: &[u32], scores: &mut [i64]) {
        let all = &cx.cluster.nodes;
        let images: Vec<_> = (cx.template().images.iter())
            .map(|image| (image.as_str(), all.nodes_with_image(image) as f64 / cx.nodes as f64))
            .filter(|(_, spread)| *spread > 0.0)
            .collect();
        if images.is_empty() {
            return;
        }
        let most = MOST * cx.template().images.len() as i64;
        for (score, i) in scores.iter_mut().zip(nodes) {
            let there = &all.rows.images[*i as usize];
            let sizes = images.iter().filter_map(|(image, spread)| Some((*there.get(*image)? as f64 * spread) as i64));
            let sum = sizes.sum::<i64>().clamp(LEAST, most);
            *score = MAX_SCORE * (sum - LEAST) / (most - LEAST);
        }
    }
}
