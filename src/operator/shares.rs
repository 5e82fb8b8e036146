//! Max-min fair shares of a capacity. Pure.
//!
//! A share has two levels: namespaces divide the capacity, the organisms of a namespace divide what it gets. Who asks for
//! less than its share gets what it asks for, and the others divide what that leaves. So a namespace with a thousand
//! organisms takes nothing from one with a single organism.

use std::collections::BTreeMap;

/// The most that any one of those who share `capacity` gets: demands up to this level are met, larger ones are cut to
/// it. Infinite when all demands can be met.
#[must_use]
pub fn level(capacity: f64, demands: &[f64]) -> f64 {
    let mut demands = demands.to_vec();
    demands.sort_unstable_by(f64::total_cmp);
    let mut left = capacity;
    for (at, demand) in demands.iter().enumerate() {
        let equal = left / (demands.len() - at) as f64;
        if *demand > equal {
            return equal;
        }
        left -= demand;
    }
    f64::INFINITY
}

/// The most that each organism gets of `capacity`, where `demands` are the namespaces of the organisms and what they ask
/// for. Infinite for one that is not cut.
#[must_use]
pub fn limits(capacity: f64, demands: &[(&str, f64)]) -> Vec<f64> {
    let mut namespaces: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (namespace, demand) in demands {
        namespaces.entry(namespace).or_default().push(*demand);
    }
    let sums: Vec<f64> = namespaces.values().map(|it| it.iter().sum()).collect();
    let each = level(capacity, &sums);
    // Infinite where the namespace stays within its share: summed in another order, it may seem to exceed it.
    let within =
        |(demands, sum): (&Vec<f64>, f64)| if sum <= each { f64::INFINITY } else { level(each, demands) };
    let levels: BTreeMap<&str, f64> =
        namespaces.iter().zip(sums).map(|((name, demands), sum)| (*name, within((demands, sum)))).collect();
    demands.iter().map(|(namespace, _)| levels[namespace]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Names of namespaces, and what their organisms ask for.
    fn organisms() -> impl Strategy<Value = Vec<(&'static str, f64)>> {
        let demand = prop_oneof![Just(0.0), 0.0..10.0, 0.0..1e9];
        prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), demand), 1..40)
    }

    fn grants(capacity: f64, demands: &[(&str, f64)]) -> Vec<f64> {
        limits(capacity, demands).iter().zip(demands).map(|(limit, (_, demand))| demand.min(*limit)).collect()
    }

    fn sum_of(namespace: &str, demands: &[(&str, f64)], amounts: &[f64]) -> f64 {
        let own = demands.iter().zip(amounts).filter(|((name, _), _)| *name == namespace);
        own.map(|(_, amount)| amount).sum()
    }

    proptest! {
        #[test]
        fn grants_never_exceed_the_capacity_and_leave_none_of_it_to_one_that_is_cut(
            capacity in 0.1..1e6_f64, demands in organisms(),
        ) {
            let granted: f64 = grants(capacity, &demands).iter().sum();
            let asked: f64 = demands.iter().map(|it| it.1).sum();
            prop_assert!(granted <= capacity * (1.0 + 1e-9), "{granted} of {capacity}");
            prop_assert!(granted >= asked.min(capacity) * (1.0 - 1e-9), "{granted} of {capacity}, asked {asked}");
        }

        #[test]
        fn nobody_below_its_fair_share_is_cut(capacity in 0.1..1e6_f64, demands in organisms()) {
            let wanted: Vec<f64> = demands.iter().map(|it| it.1).collect();
            let granted = grants(capacity, &demands);
            let mut names: Vec<_> = demands.iter().map(|it| it.0).collect();
            names.sort_unstable();
            names.dedup();
            let fair = capacity / names.len() as f64;
            for name in names {
                let asked = sum_of(name, &demands, &wanted);
                let got = sum_of(name, &demands, &granted);
                prop_assert!(got >= asked.min(fair) * (1.0 - 1e-9), "{name} got {got} of {asked}, fair {fair}");
                let members = demands.iter().filter(|it| it.0 == name).count() as f64;
                for ((_, demand), grant) in demands.iter().zip(&granted).filter(|((of, _), _)| *of == name) {
                    prop_assert!(*grant >= demand.min(fair / members) * (1.0 - 1e-9));
                }
            }
        }

        #[test]
        fn equal_demands_of_a_namespace_get_equal_grants_and_larger_ones_no_less(
            capacity in 0.1..1e6_f64, demands in organisms(),
        ) {
            let granted = grants(capacity, &demands);
            for ((one, asked), got) in demands.iter().zip(&granted) {
                for ((other, more), gets) in demands.iter().zip(&granted) {
                    prop_assert!(one != other || asked > more || got <= gets);
                }
            }
        }

        #[test]
        fn more_demand_never_gives_less(
            capacity in 0.1..1e6_f64, demands in organisms(), more in 0.0..1e9_f64, at: prop::sample::Index,
        ) {
            let at = at.index(demands.len());
            let before = grants(capacity, &demands)[at];
            let mut demands = demands;
            demands[at].1 += more;
            prop_assert!(grants(capacity, &demands)[at] >= before * (1.0 - 1e-9));
        }

        #[test]
        fn organisms_of_another_namespace_take_no_more_than_the_share_of_it(
            capacity in 0.1..1e6_f64, modest in 0.0..10.0_f64, greedy in 1usize..1_000,
        ) {
            let mut demands = vec![("greedy", 1e9); greedy];
            demands.push(("modest", modest));
            let got = grants(capacity, &demands)[greedy];
            prop_assert!(got >= modest.min(capacity / 2.0) * (1.0 - 1e-9), "{got} of {modest}");
        }
    }
}
