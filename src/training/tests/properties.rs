//! What holds of any rows.

use fastrand::Rng;
use proptest::prelude::*;

use super::{model, rows};
use crate::organism::cores::entropy::sigmoid;
use crate::organism::genome::Thresholds;
use crate::organism::{Action, decision};
use crate::training::decisions::Decisions;
use crate::training::score::{auc, roc};
use crate::training::{Rows, Tally};

/// Few numbers of anomalies, so that there are ties.
fn some_rows() -> impl Strategy<Value = Rows> {
    prop::collection::vec((0_u32..8, 0_u64..4, 0_u64..4), 1..12).prop_map(|groups| rows(&groups))
}

/// Each row by itself.
fn one_by_one(rows: &Rows) -> Vec<(u32, bool)> {
    let each = |(anoms, it): (u32, Tally)| {
        let calm = (0..it.calm).map(move |_| (anoms, false));
        calm.chain((0..it.incident).map(move |_| (anoms, true)))
    };
    rows.iter().flat_map(each).collect()
}

proptest! {
    #[test]
    fn auc_is_the_share_of_pairs_in_the_right_order(rows in some_rows(), weight in prop::sample::select(vec![-1.0, 0.0, 0.3])) {
        let each = one_by_one(&rows);
        let (mut pairs, mut right) = (0.0, 0.0);
        for (calm, _) in each.iter().filter(|it| !it.1) {
            for (incident, _) in each.iter().filter(|it| it.1) {
                let (calm, incident) = (weight * f64::from(*calm), weight * f64::from(*incident));
                pairs += 1.0;
                right += if incident > calm { 1.0 } else if incident == calm { 0.5 } else { 0.0 };
            }
        }
        let auc = auc(&rows, weight);
        prop_assert_eq!(auc.is_some(), pairs > 0.0);
        if let Some(auc) = auc {
            prop_assert!((auc - right / pairs).abs() < 1e-12, "{} {}", auc, right / pairs);
            // It is also what lies under the curve.
            let area: f64 = roc(&rows, weight)
                .windows(2)
                .map(|pair| {
                    let width = pair[1].false_positive_rate - pair[0].false_positive_rate;
                    width * (pair[0].true_positive_rate + pair[1].true_positive_rate) / 2.0
                })
                .sum();
            prop_assert!((auc - area).abs() < 1e-12, "{} {}", auc, area);
        }
    }

    #[test]
    fn a_split_loses_no_row_and_keeps_the_shares(rows in some_rows(), share in 0.0..0.9_f64, seed in any::<u64>()) {
        let (train, held_out) = rows.split(share, &mut Rng::with_seed(seed));
        let mut both = train.clone();
        for (anoms, it) in held_out.iter() {
            both.add_many(anoms, false, it.calm);
            both.add_many(anoms, true, it.incident);
        }
        prop_assert_eq!(&both, &rows);
        let (all, part) = (rows.total(), held_out.total());
        for (all, part) in [(all.calm, part.calm), (all.incident, part.incident)] {
            let wanted = (all as f64 * share).round().min(all.saturating_sub(1) as f64);
            prop_assert_eq!(part as f64, wanted);
        }
    }

    #[test]
    fn thinning_keeps_the_shares(rows in some_rows(), most in 1_u64..40) {
        let thinned = rows.thinned(most);
        let (all, few) = (rows.total(), thinned.total());
        prop_assert!(few.rows() <= most.max(2));
        if all.rows() <= most {
            prop_assert_eq!(&thinned, &rows);
        }
        for (anoms, it) in thinned.iter() {
            let of = rows.iter().find(|(other, _)| *other == anoms).unwrap().1;
            prop_assert!(it.calm <= of.calm && it.incident <= of.incident);
        }
        prop_assert_eq!((few.calm > 0, few.incident > 0), (all.calm > 0, all.incident > 0));
    }

    #[test]
    fn changes_are_where_two_models_decide_otherwise(
        weights in prop::array::uniform2(-1.0..1.0_f64),
        biases in prop::array::uniform2(-5.0..5.0_f64),
        limits in prop::array::uniform2(0.01..0.99_f64),
    ) {
        let thresholds = Thresholds { alert: limits[0], quarantine: limits[1], ..Thresholds::default() };
        let models = [model(weights[0], biases[0]), model(weights[1], biases[1])];
        let [before, after] = models.map(|it| Decisions::of(&it, &thresholds));
        let changes = before.changes(&after);
        for anoms in (0..60).chain([1_000, 1_000_000]) {
            let decided = models.map(|it| {
                let raw_threat = sigmoid(it.ml_weight * anoms as f64 + it.ml_bias);
                let details = decision::Details {
                    opt_gain: 0.0, raw_conserve: 0.0, raw_gain: 0.0, raw_threat,
                    raw_urgency: 0.0, repair_score: 0.0, stability: 0.0, threat: 0.0,
                };
                Some(decision::decide(&details, &thresholds)).filter(|it| *it != Action::Noop)
            });
            let told: Vec<_> = changes.iter().filter(|it| it.anoms.contains(anoms)).collect();
            if decided[0] == decided[1] {
                prop_assert!(told.is_empty(), "{}: {:?}", anoms, told);
            } else {
                prop_assert_eq!(told.len(), 1);
                prop_assert_eq!([told[0].before, told[0].after], decided);
            }
        }
        for pair in changes.windows(2) {
            prop_assert!(pair[0].anoms.to < Some(pair[1].anoms.from));
        }
    }
}
