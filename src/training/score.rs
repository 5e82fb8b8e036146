//! How good a model is on some rows.

use serde::Serialize;

use super::rows::{Rows, Tally};
use crate::organism::cores::entropy::sigmoid;
use crate::organism::genome::{Ml, Thresholds};

/// Bins of the calibration table, each a tenth of the threat's range.
pub const BINS: usize = 10;
/// Most points of a ROC curve in a report.
pub const ROC_POINTS: usize = 500;

/// How good a model is on some rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scores {
    /// The rows.
    pub rows: Tally,
    /// Area under the ROC curve; `None` if all rows have the same label.
    pub auc: Option<f64>,
    /// Mean of (threat − label)² (Brier, 1950): 0 is perfect, and a constant threat of a half has 0.25.
    pub brier: f64,
    /// What the rule of ALERT would have caught and hit. It includes what QUARANTINE would.
    pub alert: Confusion,
    /// What the rule of QUARANTINE would have caught and hit.
    pub quarantine: Confusion,
    /// The calibration table: the bins that have rows, in ascending order.
    pub calibration: Vec<Bin>,
    /// Points of the ROC curve, at most [`ROC_POINTS`] and the last; none if all rows have the same label.
    pub roc: Vec<RocPoint>,
}

/// Rows by what they are and whether the threat reached a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Confusion {
    /// Incidents at or above the threshold.
    pub incidents_caught: u64,
    /// Incidents below it.
    pub incidents_missed: u64,
    /// Calm rows at or above it.
    pub calm_hit: u64,
    /// Calm rows below it.
    pub calm_left: u64,
}

/// The rows whose threat is in a tenth of its range.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bin {
    /// The bin, from 0: the threat is above bin/10 (or 0) and at most (bin + 1)/10.
    pub bin: usize,
    /// Its rows.
    pub rows: u64,
    /// Mean threat.
    pub mean_threat: f64,
    /// How many of the rows are incidents, 0 to 1. In a calibrated model about the mean threat.
    pub incident_share: f64,
}

/// A point of the ROC curve: what a threshold would have caught and hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RocPoint {
    /// The threshold, as a number of anomalies: it and all with more threat are at or above. `None`: nothing is.
    pub anoms: Option<u32>,
    /// Share of the calm rows that are hit.
    pub false_positive_rate: f64,
    /// Share of the incidents that are caught.
    pub true_positive_rate: f64,
}

/// The threat of so many anomalies.
#[must_use]
pub fn threat(model: Ml, anoms: u32) -> f64 {
    sigmoid(model.ml_weight * f64::from(anoms) + model.ml_bias)
}

impl Scores {
    /// The scores of `model` on `rows`, of which there must be some.
    #[must_use]
    pub fn of(rows: &Rows, model: Ml, thresholds: &Thresholds) -> Self {
        let total = rows.total();
        let mut squares = 0.0;
        // Rows, sum of the threat.
        let mut bins = [(Tally::default(), 0.0); BINS];
        let (mut alert, mut quarantine) = (Confusion::default(), Confusion::default());
        for (anoms, tally) in rows.iter() {
            let threat = threat(model, anoms);
            let (calm, incident) = (tally.calm as f64, tally.incident as f64);
            squares += calm * threat * threat + incident * (1.0 - threat) * (1.0 - threat);
            let bin = (1..BINS).filter(|edge| *edge as f64 / (BINS as f64) < threat).count();
            bins[bin].0 += tally;
            bins[bin].1 += threat * (calm + incident);
            alert.add(tally, threat >= thresholds.alert);
            quarantine.add(tally, threat >= thresholds.quarantine);
        }
        let calibration = (0..BINS).filter(|bin| bins[*bin].0.rows() > 0).map(|bin| {
            let (tally, threats) = bins[bin];
            let rows = tally.rows() as f64;
            Bin {
                bin,
                rows: tally.rows(),
                mean_threat: threats / rows,
                incident_share: tally.incident as f64 / rows,
            }
        });
        let roc = roc(rows, model.ml_weight);
        let step = roc.len().div_ceil(ROC_POINTS).max(1);
        let last = roc.last().copied().filter(|_| !(roc.len() - 1).is_multiple_of(step));
        Self {
            rows: total,
            auc: auc(rows, model.ml_weight),
            brier: squares / total.rows() as f64,
            alert,
            quarantine,
            calibration: calibration.collect(),
            roc: roc.iter().step_by(step).copied().chain(last).collect(),
        }
    }
}

impl Confusion {
    fn add(&mut self, tally: Tally, reached: bool) {
        if reached {
            self.incidents_caught += tally.incident;
            self.calm_hit += tally.calm;
        } else {
            self.incidents_missed += tally.incident;
            self.calm_left += tally.calm;
        }
    }
}

/// The groups in ascending order of the threat under a model of this weight. They are ranked by their anomalies, for the
/// threat itself is rounded to 1 for many.
fn ascending(rows: &Rows, weight: f64) -> Vec<(u32, Tally)> {
    if weight < 0.0 { rows.iter().rev().collect() } else { rows.iter().collect() }
}

/// Area under the ROC curve: the probability that an incident has more threat than a calm row, where equals count a
/// half (the rank statistic of Mann and Whitney, 1947). The counts are exact; only the last division rounds. `None` if
/// all rows have the same label.
#[must_use]
pub fn auc(rows: &Rows, weight: f64) -> Option<f64> {
    let total = rows.total();
    if !total.has_both() {
        return None;
    }
    if weight == 0.0 {
        return Some(0.5);
    }
    let (mut twice, mut below) = (0_u128, 0_u64);
    for (_, tally) in ascending(rows, weight) {
        twice += u128::from(tally.incident) * (2 * u128::from(below) + u128::from(tally.calm));
        below += tally.calm;
    }
    let pairs = 2 * u128::from(total.calm) * u128::from(total.incident);
    Some(twice as f64 / pairs as f64)
}

/// The ROC curve under a model of this weight: a point for each number of anomalies, with nothing caught first. None if
/// all rows have the same label.
#[must_use]
pub fn roc(rows: &Rows, weight: f64) -> Vec<RocPoint> {
    let total = rows.total();
    if !total.has_both() {
        return vec![];
    }
    let point = |anoms, above: Tally| RocPoint {
        anoms,
        false_positive_rate: above.calm as f64 / total.calm as f64,
        true_positive_rate: above.incident as f64 / total.incident as f64,
    };
    let mut above = Tally::default();
    let mut points = vec![point(None, above)];
    for (anoms, tally) in ascending(rows, weight).into_iter().rev() {
        above += tally;
        // Under a weight of 0 all have the same threat.
        if weight != 0.0 || above == total {
            points.push(point(Some(anoms), above));
        }
    }
    points
}
