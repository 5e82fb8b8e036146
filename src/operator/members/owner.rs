//! The replica that is to hold an organism: rendezvous hashing. Pure.
//!
//! Each pair of replica and organism has a score, and the highest score decides. So a replica that comes takes only its
//! share, one that goes leaves its share to all others, and nothing else moves.

use std::sync::Arc;

use sha3::{Digest, Sha3_256};

/// A replica, and the hash of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: Arc<str>,
    hash: u64,
}

impl Candidate {
    /// The replica of this name.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
        let hash = hash(&name);
        Self { name, hash }
    }
}

/// The one of `candidates` that is to hold the Organism with this UID; none without any.
#[must_use]
pub fn owner<'a>(candidates: &'a [Candidate], uid: &str) -> Option<&'a Arc<str>> {
    let organism = hash(uid);
    // Names differ, so no two candidates compare equal.
    let best = candidates.iter().max_by_key(|it| (mix(it.hash ^ organism), &it.name))?;
    Some(&best.name)
}

/// The same on every machine and in every version: replicas of two versions run side by side during an update.
fn hash(text: &str) -> u64 {
    let digest: [u8; 32] = Sha3_256::digest(text.as_bytes()).into();
    digest[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(names: &[&str]) -> Vec<Candidate> {
        names.iter().map(|it| Candidate::new((*it).into())).collect()
    }

    fn owners(names: &[&str], organisms: usize) -> Vec<String> {
        let candidates = candidates(names);
        (0..organisms).map(|it| owner(&candidates, &format!("uid-{it}")).unwrap().to_string()).collect()
    }

    #[test]
    fn the_owner_of_an_organism_is_the_same_everywhere() {
        let of = |uid| owner(&candidates(&["alpha", "beta", "gamma"]), uid).unwrap().to_string();
        let of_others = |uid| owner(&candidates(&["gamma", "alpha", "beta"]), uid).unwrap().to_string();
        for uid in ["a", "b", "c", "7c0ffee0-0000-4000-8000-000000000000"] {
            assert_eq!(of(uid), of_others(uid));
        }
        // Another function would make replicas of two versions disagree during an update.
        assert_eq!(hash("alpha"), 0x2718_78f8_a927_b456);
        assert_eq!(owner(&[], "a"), None);
    }

    #[test]
    fn a_replica_that_joins_or_leaves_moves_only_its_share() {
        let two = owners(&["alpha", "beta"], 3_000);
        let three = owners(&["alpha", "beta", "gamma"], 3_000);
        let moved = two.iter().zip(&three).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(_, after)| after == "gamma"), "nothing moves between the others");
        let share = moved.count();
        assert!((900..=1_100).contains(&share), "{share} of 3000");
        let first = two.iter().filter(|it| *it == "alpha").count();
        assert!((1_400..=1_600).contains(&first), "{first} of 3000");
    }
}
