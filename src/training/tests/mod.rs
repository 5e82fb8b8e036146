//! Tests of training.

mod inputs;
mod properties;

use fastrand::Rng;
use serde_json::Value;

use crate::organism::Action;
use crate::organism::genome::{Ml, Thresholds};
use crate::training::fit::{BOUND, ITERATIONS, LINFA_ROWS, Scale, Warning, by_linfa, fit, fit_within};
use crate::training::report::{Options, Report};
use crate::training::rows::{DataError, MOST_ANOMS, Rows};
use crate::training::score::{ROC_POINTS, Scores, roc, threat};
use crate::training::{Loss, picture};

const OPTIONS: Options = Options { loss: Loss::Logistic, alpha: 1.0, balance: false, test: 0.25, seed: 1 };

fn model(ml_weight: f64, ml_bias: f64) -> Ml {
    Ml { ml_weight, ml_bias }
}

fn rows(groups: &[(u32, u64, u64)]) -> Rows {
    let mut rows = Rows::default();
    for &(anoms, calm, incident) in groups {
        rows.add_many(anoms, false, calm);
        rows.add_many(anoms, true, incident);
    }
    rows
}

/// Rows whose labels follow the model.
fn drawn(count: u64, truth: Ml, most: u32, seed: u64) -> Rows {
    let mut rng = Rng::with_seed(seed);
    let mut rows = Rows::default();
    for _ in 0..count {
        let anoms = rng.u32(0..=most);
        rows.add(anoms, rng.f64() < threat(truth, anoms));
    }
    rows
}

fn assert_near(what: &str, is: f64, wanted: f64, relative: f64) {
    assert!((is - wanted).abs() <= relative * wanted.abs().max(1e-300), "{what}: {is}, expected {wanted}");
}

/// The sets of tests/golden/training/scikit-learn.json, and their rows.
fn golden() -> Vec<(Value, Rows)> {
    let text = include_str!("../../../tests/golden/training/scikit-learn.json");
    let file: Value = serde_json::from_str(text).unwrap();
    let sets = file["sets"].as_array().unwrap();
    let with_rows = |set: &Value| {
        let groups: Vec<(u32, u64, u64)> = serde_json::from_value(set["groups"].clone()).unwrap();
        (set.clone(), rows(&groups))
    };
    sets.iter().map(with_rows).collect()
}

#[test]
fn the_fit_is_that_of_scikit_learn() {
    let sets = golden();
    assert!(sets.len() >= 5);
    for (set, rows) in sets {
        let (name, alpha) = (set["name"].as_str().unwrap(), set["alpha"].as_f64().unwrap());
        let fitted = fit(&rows, Loss::Logistic, alpha);
        assert_near(name, fitted.model.ml_weight, set["weight"].as_f64().unwrap(), 1e-5);
        assert_near(name, fitted.model.ml_bias, set["bias"].as_f64().unwrap(), 1e-5);
        let separable = fitted.warnings.contains(&Warning::Separable);
        assert_eq!(separable, name == "separable", "{name}: {:?}", fitted.warnings);
        let unconverged = fitted.warnings.iter().any(|it| matches!(it, Warning::NotConverged(_)));
        assert!(!unconverged, "{name}: {:?}", fitted.warnings);
    }
}

#[test]
fn the_scores_are_those_of_scikit_learn() {
    let pairs = |value: &Value| -> Vec<(f64, f64)> { serde_json::from_value(value.clone()).unwrap() };
    for (set, rows) in golden() {
        let name = set["name"].as_str().unwrap();
        let model = model(set["weight"].as_f64().unwrap(), set["bias"].as_f64().unwrap());
        let scores = Scores::of(&rows, model, &Thresholds::default());
        assert_near(name, scores.auc.unwrap(), set["auc"].as_f64().unwrap(), 1e-9);
        assert_near(name, scores.brier, set["brier"].as_f64().unwrap(), 1e-9);
        let (points, wanted) = (roc(&rows, model.ml_weight), pairs(&set["roc"]));
        assert_eq!(points.len(), wanted.len(), "{name}");
        for (point, (hit, caught)) in points.iter().zip(wanted) {
            assert!((point.false_positive_rate - hit).abs() < 1e-12, "{name}: {point:?}, expected {hit}");
            assert!(
                (point.true_positive_rate - caught).abs() < 1e-12,
                "{name}: {point:?}, expected {caught}"
            );
        }
        let wanted = pairs(&set["calibration"]);
        if !wanted.is_empty() {
            assert_eq!(scores.calibration.len(), wanted.len(), "{name}");
            for (bin, (mean, share)) in scores.calibration.iter().zip(wanted) {
                assert!((bin.mean_threat - mean).abs() < 1e-9, "{name}: {bin:?}, expected {mean}");
                assert!((bin.incident_share - share).abs() < 1e-12, "{name}: {bin:?}, expected {share}");
            }
        }
    }
}

/// A model that made the data is found again, whichever label is the rarer one. linfa takes the larger class as
/// positive: without a look at its labels the signs of the first model would be the other way round.
#[test]
fn a_known_model_is_found_again() {
    for (truth, rare) in [(model(0.3, -5.0), true), (model(0.3, -1.0), false)] {
        let within = (1..=20)
            .filter(|&seed| {
                let rows = drawn(10_000, truth, 20, seed);
                let total = rows.total();
                assert_eq!(total.incident < total.calm, rare);
                let fitted = fit(&rows, Loss::Logistic, 1.0);
                let errors = fitted.errors.unwrap();
                assert!(fitted.model.ml_weight > 0.0, "{fitted:?}");
                assert!(errors.ml_weight < 0.02 && errors.ml_bias < 0.3, "{errors:?}");
                (fitted.model.ml_weight - truth.ml_weight).abs() <= 3.0 * errors.ml_weight
                    && (fitted.model.ml_bias - truth.ml_bias).abs() <= 3.0 * errors.ml_bias
            })
            .count();
        assert!(within >= 19, "{truth:?}: {within} of 20");
    }
}

/// The squared error of a model that made the data is the lowest there is, in expectation.
#[test]
fn squared_error_finds_a_known_model_too() {
    for truth in [model(0.3, -5.0), model(0.3, -1.0)] {
        let fitted = fit(&drawn(50_000, truth, 20, 1), Loss::Mse, 0.0);
        assert_eq!(fitted.warnings, []);
        assert_near("weight", fitted.model.ml_weight, truth.ml_weight, 0.1);
        assert_near("bias", fitted.model.ml_bias, truth.ml_bias, 0.1);
    }
}

/// linfa alone gives the fit where it gets all rows; what follows it is for more rows than that.
#[test]
fn the_logistic_fit_is_linfas() {
    for truth in [model(0.3, -5.0), model(0.3, -1.0), model(-0.4, 2.0)] {
        let rows = drawn(10_000, truth, 20, 3);
        let scale = Scale::of(&rows);
        let linfa = scale.plain(by_linfa(&rows, 1.0, scale, LINFA_ROWS, ITERATIONS).unwrap());
        let all = fit(&rows, Loss::Logistic, 1.0).model;
        assert_near("weight", linfa.ml_weight, all.ml_weight, 1e-6);
        assert_near("bias", linfa.ml_bias, all.ml_bias, 1e-6);
    }
}

#[test]
fn more_rows_than_linfa_gets_give_the_same_fit() {
    let rows = drawn(10_000, model(0.3, -5.0), 20, 4);
    let all = fit(&rows, Loss::Logistic, 1.0).model;
    for most in [2, 50, 3_000] {
        let thinned = fit_within(&rows, Loss::Logistic, 1.0, most, ITERATIONS);
        assert_near("weight", thinned.model.ml_weight, all.ml_weight, 1e-5);
        assert_near("bias", thinned.model.ml_bias, all.ml_bias, 1e-5);
        assert!(thinned.errors.is_some(), "{thinned:?}");
    }
}

/// The penalty is that of linfa and scikit-learn: at the minimum its slope, alpha · weight, equals that of the
/// likelihood, in plain anomalies.
#[test]
fn alpha_is_the_penalty_on_the_plain_weight() {
    let rows = drawn(2_000, model(0.3, -3.0), 20, 5);
    let mut before = f64::INFINITY;
    for alpha in [0.0, 1.0, 100.0, 10_000.0] {
        let model = fit(&rows, Loss::Logistic, alpha).model;
        let slope: f64 = rows
            .iter()
            .map(|(anoms, it)| {
                let threat = threat(model, anoms);
                (it.calm as f64 * threat - it.incident as f64 * (1.0 - threat)) * f64::from(anoms)
            })
            .sum();
        assert!((slope + alpha * model.ml_weight).abs() < 1e-2, "{alpha}: {slope}, {model:?}");
        assert!(model.ml_weight < before, "{alpha}: {model:?}");
        before = model.ml_weight;
    }
}

#[test]
fn an_optimiser_that_is_stopped_says_so() {
    let rows = drawn(2_000, model(0.3, -5.0), 20, 6);
    for loss in Loss::ALL {
        let stopped = fit_within(&rows, loss, 1.0, 10, 1);
        assert!(matches!(stopped.warnings[0], Warning::NotConverged(_)), "{loss:?}: {stopped:?}");
        assert_eq!(stopped.errors, None);
        assert_eq!(fit(&rows, loss, 1.0).warnings, [], "{loss:?}");
    }
}

#[test]
fn separable_rows_are_told_and_their_weight_is_bounded() {
    // A tenth of an anomaly cannot be counted, so a boundary below 10 leaves the weight within bounds.
    let near = rows(&[(0, 50, 0), (9, 50, 0), (10, 0, 50), (30, 0, 50)]);
    for (alpha, loss) in [(1.0, Loss::Logistic), (0.0, Loss::Logistic), (0.0, Loss::Mse)] {
        let fitted = fit(&near, loss, alpha);
        assert!(fitted.warnings.contains(&Warning::Separable), "{fitted:?}");
        assert_eq!(fitted.errors, None);
        let Ml { ml_weight, ml_bias } = fitted.model;
        assert!(ml_weight > 0.0 && ml_weight <= BOUND && ml_bias.abs() <= BOUND, "{fitted:?}");
        assert!((9.0..=10.0).contains(&(-ml_bias / ml_weight)), "{fitted:?}");
    }
    // A bias of -100 is reached first. The threat stays a half where it was.
    let far = rows(&[(1_000, 50, 0), (1_010, 0, 50)]);
    let fitted = fit(&far, Loss::Logistic, 0.0);
    assert!(fitted.warnings.iter().any(|it| matches!(it, Warning::Bounded(_))), "{fitted:?}");
    assert_near("bias", fitted.model.ml_bias, -BOUND, 1e-12);
    assert_near("boundary", -fitted.model.ml_bias / fitted.model.ml_weight, 1_005.0, 1e-3);
    assert_near("boundary's threat", threat(fitted.model, 1_005), 0.5, 0.1);
    // One common number of anomalies is not enough to mix them.
    assert!(rows(&[(1, 5, 0), (2, 5, 5), (3, 0, 5)]).is_separable());
    assert!(rows(&[(1, 0, 5), (2, 5, 0)]).is_separable());
    assert!(!rows(&[(1, 5, 1), (2, 5, 5), (3, 0, 5)]).is_separable());
}

#[test]
fn a_plateau_of_the_squared_error_is_told() {
    // The default weight gives each of these rows a threat of 1, to the last bit.
    let rows = rows(&[(5_000, 90, 2), (5_100, 50, 30), (5_200, 3, 70)]);
    let fitted = fit(&rows, Loss::Mse, 0.0);
    assert!(fitted.warnings.contains(&Warning::NoBetterThanConstant), "{fitted:?}");
    assert!(!fit(&rows, Loss::Logistic, 1.0).warnings.contains(&Warning::NoBetterThanConstant));
}

#[test]
fn labels_the_wrong_way_round_are_told() {
    let fitted = fit(&drawn(1_000, model(-0.3, 2.0), 20, 7), Loss::Logistic, 1.0);
    assert_eq!(fitted.warnings, [Warning::NotRising]);
}

#[test]
fn rows_that_teach_nothing_are_refused() {
    let report = |rows: &Rows| Report::of(rows, &OPTIONS, Ml::default(), &Thresholds::default()).unwrap_err();
    assert_eq!(report(&Rows::default()), DataError::Empty);
    for (groups, told) in [
        ([(0, 5, 0), (3, 7, 0)], "all 12 rows are calm (0): there is nothing to tell apart"),
        ([(0, 0, 5), (3, 0, 7)], "all 12 rows are incidents (1)"),
        ([(4, 5, 2), (4, 1, 1)], "all 9 rows have 4 anomalies: nothing can be learned from a constant"),
    ] {
        let error = report(&rows(&groups)).to_string();
        assert!(error.contains(told) && error.contains("; add rows"), "{error}");
    }
}

#[test]
fn the_bounds_are_those_of_the_api() {
    use crate::api::{GenomeSpec, validate};
    let takes = |edit: &dyn Fn(&mut GenomeSpec)| {
        let mut spec = GenomeSpec::default();
        edit(&mut spec);
        validate::genome(&spec).is_ok()
    };
    for sign in [1.0, -1.0] {
        assert!(
            takes(&|spec| spec.ml.ml_weight = sign * BOUND) && takes(&|spec| spec.ml.bias = sign * BOUND)
        );
        let over = BOUND * (1.0 + f64::EPSILON);
        assert!(
            !takes(&|spec| spec.ml.ml_weight = sign * over) && !takes(&|spec| spec.ml.bias = sign * over)
        );
    }
    assert!(takes(&|spec| spec.risk.anoms = MOST_ANOMS.into()));
    assert!(!takes(&|spec| spec.risk.anoms = u64::from(MOST_ANOMS) + 1));
}

#[test]
fn balancing_repeats_the_rarer_label() {
    let rows = drawn(10_000, model(0.3, -6.0), 20, 8);
    let balanced = rows.balanced(&mut Rng::with_seed(1));
    let (before, after) = (rows.total(), balanced.total());
    assert!(before.incident < before.calm / 3, "{before:?}");
    assert_eq!((after.calm, after.incident), (before.calm, before.calm));
    assert_eq!(balanced, rows.balanced(&mut Rng::with_seed(1)));
    assert_ne!(balanced, rows.balanced(&mut Rng::with_seed(2)));
    // Repeating a label shifts the bias and leaves the weight, as far as the rows follow a model.
    let (plain, balanced) =
        (fit(&rows, Loss::Logistic, 0.0).model, fit(&balanced, Loss::Logistic, 0.0).model);
    assert_near("weight", balanced.ml_weight, plain.ml_weight, 0.1);
    let shift = (before.calm as f64 / before.incident as f64).ln();
    assert_near("shift", balanced.ml_bias - plain.ml_bias, shift, 0.1);
    // The other label likewise.
    let few_calm = drawn(1_000, model(0.3, 1.0), 20, 8).balanced(&mut Rng::with_seed(1)).total();
    assert_eq!(few_calm.calm, few_calm.incident);
}

#[test]
fn a_report_says_what_would_change() {
    let rows = drawn(4_000, model(0.5, -6.0), 20, 9);
    let report = Report::of(&rows, &OPTIONS, Ml::default(), &Thresholds::default()).unwrap();
    assert_eq!(report, Report::of(&rows, &OPTIONS, Ml::default(), &Thresholds::default()).unwrap());
    let Report { new, present, changes, .. } = &report;
    let held_out = new.held_out.as_ref().unwrap();
    assert_eq!((new.train.rows.rows(), held_out.rows.rows()), (3_000, 1_000));
    // With the defaults 4 anomalies are an ALERT and 15 a QUARANTINE (mission).
    assert_eq!(present.decisions.alert.map(|it| (it.from, it.to)), Some((4, Some(14))));
    assert_eq!(present.decisions.quarantine.map(|it| (it.from, it.to)), Some((15, None)));
    let quarantine = new.decisions.quarantine.unwrap().from as u32;
    let trained = model(new.model.ml_weight, new.model.bias);
    assert!(threat(trained, quarantine) >= 0.85 && threat(trained, quarantine - 1) < 0.85);
    assert_eq!((changes[0].anoms.from, changes[0].before, changes[0].after), (4, Some(Action::Alert), None));
    assert!(new.unseen().brier < present.unseen().brier / 2.0, "{report:?}");
    let caught = held_out.quarantine;
    assert_eq!(caught.incidents_caught + caught.incidents_missed, held_out.rows.incident);
    assert_eq!(caught.calm_hit + caught.calm_left, held_out.rows.calm);

    let other = Options { seed: 2, ..OPTIONS };
    assert_ne!(report.new, Report::of(&rows, &other, Ml::default(), &Thresholds::default()).unwrap().new);
    let none = Options { test: 0.0, balance: true, ..OPTIONS };
    let none = Report::of(&rows, &none, Ml::default(), &Thresholds::default()).unwrap();
    assert_eq!((none.new.held_out, none.standard_errors), (None, None));
    assert_eq!(none.warnings, [Warning::Balanced]);
}

#[test]
fn a_long_roc_curve_is_cut_to_its_length() {
    let rows = drawn(20_000, model(0.001, -2.5), 5_000, 10);
    let all = roc(&rows, 1.0);
    let cut = Scores::of(&rows, model(0.001, -2.5), &Thresholds::default()).roc;
    assert!(all.len() > 4_000 && cut.len() > ROC_POINTS / 2 && cut.len() <= ROC_POINTS + 1, "{}", cut.len());
    assert_eq!((cut.first(), cut.last()), (all.first(), all.last()));
}

#[test]
fn pictures_have_axes_units_and_labels() {
    let rows = drawn(4_000, model(0.5, -6.0), 20, 9);
    let report = Report::of(&rows, &OPTIONS, Ml::default(), &Thresholds::default()).unwrap();
    let auc = format!("held out, AUC {:.4}", report.new.unseen().auc.unwrap());
    let brier = format!("train, Brier score {:.4}", report.new.train.brier);
    for (svg, told) in [
        (
            picture::roc(&report).unwrap(),
            ["share of the calm rows hit (0 to 1)", "share of the incidents caught (0 to 1)", "ALERT", &auc],
        ),
        (
            picture::calibration(&report).unwrap(),
            [
                "mean threat of the rows in a bin (0 to 1)",
                "share of them that are incidents (0 to 1)",
                "held out",
                &brier,
            ],
        ),
    ] {
        assert!(svg.starts_with("<svg width=\"600\"") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in told.iter().chain(&["0.0", "0.5", "1.0"]) {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
