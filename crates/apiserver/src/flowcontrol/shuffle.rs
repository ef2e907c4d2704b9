//! Shuffle sharding: a flow may use a few of many queues, so that few flows share all of theirs with a heavy one
//! (`util/shufflesharding`). Pure.

/// The largest hand there is: beyond it 64 bits hold no more hands.
pub const MAX_HAND: usize = 10;

/// The queues of a flow, by the hash of its name: `hand` different numbers below `deck`, every choice alike likely.
pub fn deal(mut hash: u64, deck: usize, hand: usize) -> impl Iterator<Item = usize> {
    let hand = hand.min(deck).min(MAX_HAND);
    let mut cards = [0usize; MAX_HAND];
    for i in 0..hand {
        // One digit of a number whose bases are the cards that are left.
        let left = (deck - i) as u64;
        let mut card = (hash % left) as usize;
        hash /= left;
        // It counts the cards that are left: those dealt before, in their order, are passed over.
        let mut dealt = [0usize; MAX_HAND];
        dealt[..i].copy_from_slice(&cards[..i]);
        dealt[..i].sort_unstable();
        for before in &dealt[..i] {
            if card >= *before {
                card += 1;
            }
        }
        cards[i] = card;
    }
    cards.into_iter().take(hand)
}

/// A hash of a flow: of its schema and of what tells it from others there.
pub fn hash(schema: &str, flow: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in schema.bytes().chain([0]).chain(flow.bytes()) {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    // The low bits choose queues: they must depend on all.
    h ^= h >> 32;
    h = h.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    h ^ (h >> 29)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn hands_are_different_cards_and_all_alike_likely() {
        let mut seen: BTreeMap<Vec<usize>, u32> = BTreeMap::new();
        for hash in 0..(5 * 4 * 3 * 10) {
            let hand: Vec<usize> = deal(hash, 5, 3).collect();
            assert!(hand.iter().all(|c| *c < 5));
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 3, "{hand:?}");
            *seen.entry(hand).or_default() += 1;
        }
        assert_eq!(seen.len(), 60);
        assert!(seen.values().all(|n| *n == 10), "{seen:?}");
    }

    #[test]
    fn flows_spread_over_the_queues() {
        let mut load = [0u32; 128];
        for i in 0..2000 {
            for queue in deal(hash("service-accounts", &format!("system:serviceaccount:ns-{i}:default")), 128, 6) {
                load[queue] += 1;
            }
        }
        // 12,000 cards on 128 queues: 94 each.
        assert!(load.iter().all(|n| (50..150).contains(n)), "{load:?}");
    }
}
