//! How many organisms each replica is to hold, and how many move when one joins, at size.

use std::sync::Arc;

use fastrand::Rng;
use venom::operator::members::owner::{Candidate, owner};

/// UIDs and names as Kubernetes makes them.
fn uids(count: usize) -> Vec<String> {
    let mut rng = Rng::with_seed(12);
    let uid = |_| {
        let uid = uuid::Builder::from_random_bytes(rng.u128(..).to_be_bytes()).into_uuid();
        uid.to_string()
    };
    (0..count).map(uid).collect()
}

fn replicas(count: usize) -> Vec<Candidate> {
    let mut rng = Rng::with_seed(6);
    let mut letters = |count: usize| (0..count).map(|_| rng.lowercase()).collect::<String>();
    let set = letters(9);
    (0..count).map(|_| Candidate::new(Arc::from(format!("venom-{set}-{}", letters(5))))).collect()
}

/// The place of each organism's owner.
fn owners(replicas: &[Candidate], uids: &[String]) -> Vec<usize> {
    let place = |uid: &String| {
        let name = owner(replicas, uid).unwrap();
        replicas.iter().position(|it| it.name == *name).unwrap()
    };
    uids.iter().map(place).collect()
}

/// Those whose owner has changed, all of them to the newcomer.
fn moved(before: &[usize], after: &[usize], newcomer: usize) -> usize {
    let moved: Vec<usize> =
        before.iter().zip(after).filter(|(before, after)| before != after).map(|(_, after)| *after).collect();
    assert!(moved.iter().all(|to| *to == newcomer), "only the newcomer's share moves");
    let share = after.iter().filter(|it| **it == newcomer).count();
    assert_eq!(moved.len(), share, "and all of it");
    share
}

#[test]
fn a_hundred_thousand_organisms_spread_evenly_over_twenty_replicas() {
    let (uids, replicas) = (uids(100_000), replicas(21));
    let twenty = owners(&replicas[..20], &uids);
    let mut shares = [0_usize; 20];
    twenty.iter().for_each(|it| shares[*it] += 1);
    println!("shares {shares:?}");
    // Five deviations of a binomial share of 5,000: 69 each.
    assert!(shares.iter().all(|it| it.abs_diff(5_000) < 345), "{shares:?}");
    let share = moved(&twenty, &owners(&replicas, &uids), 20);
    println!("{share} move to the twenty-first");
    assert!(share.abs_diff(100_000 / 21) < 340, "{share}");
}

#[test]
fn a_third_replica_takes_a_third_of_a_thousand_organisms() {
    let (uids, replicas) = (uids(1_000), replicas(3));
    let share = moved(&owners(&replicas[..2], &uids), &owners(&replicas, &uids), 2);
    println!("{share} of 1000 move to the third");
    assert!(share.abs_diff(333) <= 60, "{share}");
}
