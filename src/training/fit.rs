//! Weight and bias: the logistic fit by linfa, the mission's squared error by argmin.
//!
//! 1. Anomalies are standardised (mean 0, deviation 1), so that a step of the optimiser means the same whatever their
//!    size. The penalty is scaled along: the problem stays the one in plain anomalies.
//! 2. **logistic**: minimises Σ −ln(likelihood) + alpha/2 · weight², the loss of linfa-logistic, and of scikit-learn with
//!    C = 1/alpha. The bias is not penalised. linfa keeps each row in memory, so it gets at most [`LINFA_ROWS`].
//!    **mse**: minimises the mean of (threat − label)², from the mission's default weight. It is not convex: far from the
//!    data's scale the default weight may stand on a plateau, which is warned of.
//! 3. Where the gradient over *all* rows is not zero yet (for squared error, and for a logistic fit of thinned rows),
//!    L-BFGS goes on from there: argmin's, which linfa uses as well.
//! 4. The gradient tells whether it has converged, for linfa does not.
//! 5. A model that the API does not take is scaled down.

use std::fmt;

use argmin::core::{CostFunction, Error, Executor, Gradient, State};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use linfa::dataset::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use serde::{Serialize, Serializer};

use super::rows::Rows;
use crate::organism::cores::entropy::sigmoid;
use crate::organism::genome::Ml;

/// The bound of `spec.ml.mlWeight` and `spec.ml.bias`, either side of 0.
pub const BOUND: f64 = 100.0;
/// Most rows that linfa gets: it keeps each one in memory, several times over.
pub const LINFA_ROWS: u64 = 100_000;
/// Most iterations of an optimiser. A model of two parameters takes about ten.
pub const ITERATIONS: u64 = 200;
/// Gradient at which an optimiser may stop, and the one up to which a fit has converged. Both of the mean loss in
/// standardised anomalies, and relative to the variance of the label: the curvature of the loss is about that.
const STOP: f64 = 1e-7;
const CONVERGED: f64 = 1e-5;
/// Earlier steps from which L-BFGS estimates the curvature, as in linfa.
const MEMORY: usize = 10;

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// Negative log-likelihood with an L2 penalty.
    Logistic,
    /// Mean squared error of the threat.
    Mse,
}

impl Loss {
    /// All losses.
    pub const ALL: [Self; 2] = [Self::Logistic, Self::Mse];

    /// Its name on the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::Mse => "mse",
        }
    }
}

/// A fitted model.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Weight and bias, within the bounds of the API.
    pub model: Ml,
    /// Standard errors of both, from the curvature of the logistic loss: what other rows from the same source would
    /// change them by. `None` where they mean nothing: for squared error, and where a warning says that the model is no
    /// minimum.
    pub errors: Option<Ml>,
    /// What to know before using it.
    pub warnings: Vec<Warning>,
}

/// What to know before a model is used. Serialized as its text.
#[derive(Clone, Debug, PartialEq)]
pub enum Warning {
    /// The optimiser stopped before the minimum. The number is the gradient there, relative as [`CONVERGED`].
    NotConverged(f64),
    /// A number of anomalies separates the labels, so that no finite weight is the best.
    Separable,
    /// The API does not take the model. The number is the factor that it was divided by.
    Bounded(f64),
    /// The mean squared error is not below that of a constant threat.
    NoBetterThanConstant,
    /// The threat does not rise with anomalies.
    NotRising,
    /// The rarer label was repeated.
    Balanced,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConverged(gradient) => write!(
                f,
                "not converged: the optimiser stopped at a relative gradient of {gradient:.0e}; do not use this model"
            ),
            Self::Separable => f.write_str(
                "separable: a number of anomalies tells all incidents from all calm rows, so the weight has no best \
value and only the penalty (--alpha) bounds it; the threshold is to be trusted, the steepness is not",
            ),
            Self::Bounded(factor) => write!(
                f,
                "bounded: weight and bias were divided by {factor:.3}, because spec.ml takes -{BOUND} to {BOUND}; \
the threat is 0.5 at the same number of anomalies, and less steep around it"
            ),
            Self::NoBetterThanConstant => f.write_str(
                "no better than a constant: the same threat for every row would have a squared error as low; with \
--loss mse the optimiser may never have left a plateau, so try --loss logistic",
            ),
            Self::NotRising => f.write_str(
                "the weight is not above 0: more anomalies mean no more threat; look whether the labels are the \
right way round",
            ),
            Self::Balanced => f.write_str(
                "balanced: the threat is no longer the share of incidents, for it was learned from rows of which half are incidents",
            ),
        }
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Fits a model. `alpha` is the L2 penalty of the logistic loss, at least 0. The rows must have passed
/// [`Rows::check`].
#[must_use]
pub fn fit(rows: &Rows, loss: Loss, alpha: f64) -> Fitted {
    fit_within(rows, loss, alpha, LINFA_ROWS, ITERATIONS)
}

/// [`fit`], with other limits.
pub(super) fn fit_within(rows: &Rows, loss: Loss, alpha: f64, linfa_rows: u64, iterations: u64) -> Fitted {
    let scale = Scale::of(rows);
    let problem = Problem::new(rows, loss, alpha, scale);
    let mut at = match loss {
        Loss::Logistic => by_linfa(rows, alpha, scale, linfa_rows, iterations).unwrap_or_default(),
        Loss::Mse => scale.standardised(Ml::default()),
    };
    if problem.relative_gradient(at) > STOP {
        at = problem.minimise(at, iterations);
    }
    let mut warnings = vec![];
    let gradient = problem.relative_gradient(at);
    if gradient.is_nan() || gradient > CONVERGED {
        warnings.push(Warning::NotConverged(gradient));
    }
    if rows.is_separable() {
        warnings.push(Warning::Separable);
    }
    let mut model = scale.plain(at);
    let factor = model.ml_weight.abs().max(model.ml_bias.abs()) / BOUND;
    if factor > 1.0 {
        // Together, so that the threat is 0.5 where it was.
        model = Ml {
            ml_weight: (model.ml_weight / factor).clamp(-BOUND, BOUND),
            ml_bias: (model.ml_bias / factor).clamp(-BOUND, BOUND),
        };
        warnings.push(Warning::Bounded(factor));
    }
    let is_minimum = loss == Loss::Logistic && warnings.is_empty();
    let errors = is_minimum.then(|| scale.plain_errors(problem.covariance(at)));
    if problem.squared_error(scale.standardised(model)) >= problem.variance {
        warnings.push(Warning::NoBetterThanConstant);
    }
    if model.ml_weight <= 0.0 {
        warnings.push(Warning::NotRising);
    }
    Fitted { model, errors, warnings }
}

/// Weight and bias in standardised anomalies.
pub(super) type Point = [f64; 2];

/// Mean and standard deviation of the anomalies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    mean: f64,
    deviation: f64,
}

impl Scale {
    pub(super) fn of(rows: &Rows) -> Self {
        let count = rows.total().rows() as f64;
        let sum = |of: &dyn Fn(f64) -> f64| -> f64 {
            rows.iter().map(|(anoms, tally)| of(anoms.into()) * tally.rows() as f64).sum()
        };
        let mean = sum(&|anoms| anoms) / count;
        let variance = sum(&|anoms| (anoms - mean) * (anoms - mean)) / count;
        Self { mean, deviation: variance.sqrt() }
    }

    fn of_anoms(self, anoms: u32) -> f64 {
        (f64::from(anoms) - self.mean) / self.deviation
    }

    fn standardised(self, model: Ml) -> Point {
        [model.ml_weight * self.deviation, model.ml_bias + model.ml_weight * self.mean]
    }

    pub(super) fn plain(self, [weight, bias]: Point) -> Ml {
        let ml_weight = weight / self.deviation;
        Ml { ml_weight, ml_bias: bias - ml_weight * self.mean }
    }

    /// The errors of [`Self::plain`] of a point with this covariance.
    fn plain_errors(self, [[ww, wb], [_, bb]]: [[f64; 2]; 2]) -> Ml {
        let shift = self.mean / self.deviation;
        Ml {
            ml_weight: ww.sqrt() / self.deviation,
            ml_bias: (bb - 2.0 * shift * wb + shift * shift * ww).sqrt(),
        }
    }
}

/// linfa's fit of at most `most` rows. linfa takes the *larger* class as positive, whatever its label: its numbers are
/// turned to where an incident is positive.
pub(super) fn by_linfa(rows: &Rows, alpha: f64, scale: Scale, most: u64, iterations: u64) -> Option<Point> {
    let thinned = rows.thinned(most);
    let (count, all) = (thinned.total().rows(), rows.total());
    let (mut anoms, mut labels) = (vec![], vec![]);
    for (number, tally) in thinned.iter() {
        for (incident, rows) in [(false, tally.calm), (true, tally.incident)] {
            anoms.extend((0..rows).map(|_| scale.of_anoms(number)));
            labels.extend((0..rows).map(|_| incident));
        }
    }
    let anoms = Array2::from_shape_vec((anoms.len(), 1), anoms).ok()?;
    let data = DatasetBase::new(anoms, Array1::from_vec(labels));
    let part = count as f64 / all.rows() as f64;
    let fitted = LogisticRegression::default()
        .alpha(alpha * part / (scale.deviation * scale.deviation))
        .max_iterations(iterations)
        // Its loss is a sum.
        .gradient_tolerance(STOP * variance(rows) * count as f64)
        .fit(&data)
        .ok()?;
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let at = [sign * *fitted.params().first()?, sign * fitted.intercept()];
    at.iter().all(|it| it.is_finite()).then_some(at)
}

/// Variance of the label.
fn variance(rows: &Rows) -> f64 {
    let total = rows.total();
    let share = total.incident as f64 / total.rows() as f64;
    share * (1.0 - share)
}

/// The loss over all rows, as a mean, in standardised anomalies.
#[derive(Debug)]
struct Problem {
    /// Standardised anomalies, calm rows, incidents.
    groups: Vec<(f64, f64, f64)>,
    rows: f64,
    loss: Loss,
    penalty: f64,
    variance: f64,
}

impl Problem {
    fn new(rows: &Rows, loss: Loss, alpha: f64, scale: Scale) -> Self {
        let group = |(anoms, tally): (u32, super::Tally)| {
            (scale.of_anoms(anoms), tally.calm as f64, tally.incident as f64)
        };
        Self {
            groups: rows.iter().map(group).collect(),
            rows: rows.total().rows() as f64,
            loss,
            penalty: if loss == Loss::Logistic { alpha / (scale.deviation * scale.deviation) } else { 0.0 },
            variance: variance(rows),
        }
    }

    /// The mean of `of(argument of the sigmoid, label)`.
    fn mean(&self, [weight, bias]: Point, of: impl Fn(f64, f64) -> f64) -> f64 {
        let sum: f64 = self
            .groups
            .iter()
            .map(|&(anoms, calm, incident)| {
                let argument = weight * anoms + bias;
                // Not 0 · infinity.
                let part = |rows: f64, label| if rows > 0.0 { rows * of(argument, label) } else { 0.0 };
                part(calm, 0.0) + part(incident, 1.0)
            })
            .sum();
        sum / self.rows
    }

    fn squared_error(&self, at: Point) -> f64 {
        self.mean(at, |argument, label| (sigmoid(argument) - label).powi(2))
    }

    fn value(&self, at: Point) -> f64 {
        match self.loss {
            // −ln(sigmoid(a)) = ln(1 + e^−a), without overflow.
            Loss::Logistic => {
                let loss = |argument: f64, label: f64| {
                    let against = if label > 0.5 { -argument } else { argument };
                    against.max(0.0) + libm::log1p(libm::exp(-against.abs()))
                };
                self.mean(at, loss) + self.penalty * at[0] * at[0] / (2.0 * self.rows)
            }
            Loss::Mse => self.squared_error(at),
        }
    }

    fn slope(&self, at: Point) -> Point {
        let [weight, bias] = at;
        let (mut by_weight, mut by_bias) = (self.penalty * weight, 0.0);
        for &(anoms, calm, incident) in &self.groups {
            let threat = sigmoid(weight * anoms + bias);
            let difference = calm * threat + incident * (threat - 1.0);
            let slope = match self.loss {
                Loss::Logistic => difference,
                Loss::Mse => 2.0 * difference * threat * (1.0 - threat),
            };
            by_weight += slope * anoms;
            by_bias += slope;
        }
        [by_weight / self.rows, by_bias / self.rows]
    }

    fn relative_gradient(&self, at: Point) -> f64 {
        let [by_weight, by_bias] = self.slope(at);
        by_weight.hypot(by_bias) / self.variance
    }

    /// The lowest point that L-BFGS finds from `start`.
    fn minimise(&self, start: Point, iterations: u64) -> Point {
        let search = MoreThuenteLineSearch::new();
        let Ok(solver) = LBFGS::new(search, MEMORY).with_tolerance_grad(STOP * self.variance) else {
            return start;
        };
        let done = Executor::new(self, solver)
            .configure(|state| state.param(start.to_vec()).max_iters(iterations))
            .run();
        // An error of the line search is no other answer than too few iterations: the gradient tells.
        let found = done.ok().and_then(|done| done.state.get_best_param().cloned());
        found.and_then(|found| Point::try_from(found).ok()).unwrap_or(start)
    }

    /// Inverse of the Fisher information and the penalty.
    fn covariance(&self, [weight, bias]: Point) -> [[f64; 2]; 2] {
        let (mut ww, mut wb, mut bb) = (self.penalty, 0.0, 0.0);
        for &(anoms, calm, incident) in &self.groups {
            let threat = sigmoid(weight * anoms + bias);
            let information = (calm + incident) * threat * (1.0 - threat);
            ww += information * anoms * anoms;
            wb += information * anoms;
            bb += information;
        }
        let determinant = ww * bb - wb * wb;
        [[bb / determinant, -wb / determinant], [-wb / determinant, ww / determinant]]
    }
}

impl CostFunction for &Problem {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, at: &Vec<f64>) -> Result<f64, Error> {
        Ok(self.value([at[0], at[1]]))
    }
}

impl Gradient for &Problem {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, at: &Vec<f64>) -> Result<Vec<f64>, Error> {
        Ok(self.slope([at[0], at[1]]).to_vec())
    }
}
