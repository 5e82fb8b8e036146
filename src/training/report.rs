//! All there is to say about a model and the rows that it was fitted to.

use fastrand::Rng;
use serde::Serialize;

use super::decisions::{Change, Decisions};
use super::fit::{Fitted, Loss, Warning, fit};
use super::rows::{DataError, Rows};
use super::score::Scores;
use crate::organism::genome::{Ml, Thresholds};

/// How to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// What is minimised.
    pub loss: Loss,
    /// L2 penalty of the logistic loss, at least 0.
    pub alpha: f64,
    /// Whether the rarer label is repeated until both are as many.
    pub balance: bool,
    /// Share of the rows that are held out, 0 to below 1.
    pub test: f64,
    /// Seed of the split and of balancing.
    pub seed: u64,
}

/// A model and how good it is. Serialized, it is the JSON that `venom train -o json` prints (beside what it says of the
/// source).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What was minimised.
    pub loss: Loss,
    /// The L2 penalty; `None` for squared error.
    pub alpha: Option<f64>,
    /// Whether the rarer label was repeated.
    pub balanced: bool,
    /// The seed.
    pub seed: u64,
    /// The trained model.
    pub new: Judged,
    /// Its standard errors, where they mean something.
    pub standard_errors: Option<Model>,
    /// What to know before using it.
    pub warnings: Vec<Warning>,
    /// The model that there is now.
    pub present: Judged,
    /// Thresholds by which all is judged.
    pub thresholds: ThreatThresholds,
    /// Where the trained model decides otherwise than the present one.
    pub changes: Vec<Change>,
}

/// A model, what it decides and how good it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    /// The model.
    pub model: Model,
    /// What it decides.
    pub decisions: Decisions,
    /// On the rows that were trained on; unbalanced.
    pub train: Scores,
    /// On the rows that were held out; `None` if none were.
    pub held_out: Option<Scores>,
}

/// A model as `spec.ml` of a Genome has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// What each anomaly adds to the argument of the sigmoid.
    pub ml_weight: f64,
    /// The argument without anomalies.
    pub bias: f64,
}

/// The thresholds of the two threat rules.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ThreatThresholds {
    /// ALERT from this threat on.
    pub alert: f64,
    /// QUARANTINE from this threat on.
    pub quarantine: f64,
}

impl From<Ml> for Model {
    fn from(Ml { ml_weight, ml_bias }: Ml) -> Self {
        Self { ml_weight, bias: ml_bias }
    }
}

impl Judged {
    fn of(model: Ml, thresholds: &Thresholds, train: &Rows, held_out: Option<&Rows>) -> Self {
        Self {
            model: model.into(),
            decisions: Decisions::of(&model, thresholds),
            train: Scores::of(train, model, thresholds),
            held_out: held_out.map(|rows| Scores::of(rows, model, thresholds)),
        }
    }

    /// The scores on rows that the model has not seen, if there are any.
    #[must_use]
    pub fn unseen(&self) -> &Scores {
        self.held_out.as_ref().unwrap_or(&self.train)
    }
}

impl Report {
    /// Fits a model to `rows`, and judges it and the `present` one by `thresholds`.
    ///
    /// # Errors
    /// [`DataError`] if there is nothing to learn.
    pub fn of(
        rows: &Rows,
        options: &Options,
        present: Ml,
        thresholds: &Thresholds,
    ) -> Result<Self, DataError> {
        rows.check()?;
        let mut rng = Rng::with_seed(options.seed);
        let (train, held_out) = rows.split(options.test, &mut rng);
        // Few rows may have lost what made them differ.
        train.check()?;
        let Fitted { model, errors, mut warnings } = if options.balance {
            let balanced = train.balanced(&mut rng);
            fit(&balanced, options.loss, options.alpha)
        } else {
            fit(&train, options.loss, options.alpha)
        };
        if options.balance {
            warnings.push(Warning::Balanced);
        }
        let held_out = Some(&held_out).filter(|rows| rows.total().rows() > 0);
        let new = Judged::of(model, thresholds, &train, held_out);
        let present = Judged::of(present, thresholds, &train, held_out);
        Ok(Self {
            loss: options.loss,
            alpha: (options.loss == Loss::Logistic).then_some(options.alpha),
            balanced: options.balance,
            seed: options.seed,
            standard_errors: errors.filter(|_| !options.balance).map(Model::from),
            warnings,
            changes: present.decisions.changes(&new.decisions),
            new,
            present,
            thresholds: ThreatThresholds { alert: thresholds.alert, quarantine: thresholds.quarantine },
        })
    }
}
