//! A synthetic organism for test data. Its entries follow the formulas of `docs/ledger-format.md`, independently of
//! the engine, so that the codec is not tested against code it could be tuned to.

use serde_json::{Value, json};

use crate::ledger::canonical::to_string;

/// Period and jitter of the beats.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Seconds between two deadlines.
    pub(crate) period: f64,
    /// Maximum delay of a beat, in seconds.
    pub(crate) jitter: f64,
}

/// The default pace: T_Λ, 237 beats per second.
pub(crate) const MISSION: Pace = Pace { period: T_LAMBDA, jitter: 60e-6 };
pub(crate) const HERTZ: Pace = Pace { period: 1.0, jitter: 1e-3 };

const T_LAMBDA: f64 = 0.004210526315789474;

pub(crate) struct Organism {
    pace: Pace,
    started: f64,
    random: u64,
    beat: u64,
    last: Option<f64>,
    integral: f64,
    last_error: f64,
    balance: f64,
    weights: [f64; 4],
    /// Anomalies of the genome, and sensed ones.
    pub(crate) anoms: (u64, u64),
}

impl Organism {
    /// Creates an organism that starts at `started`, in seconds since 1970. This also seeds its jitter.
    pub(crate) fn new(pace: Pace, started: f64) -> Self {
        Self {
            pace,
            started,
            random: started.to_bits(),
            beat: 0,
            last: None,
            integral: 0.0,
            last_error: 0.0,
            balance: 0.5,
            weights: [0.25, 0.25, 0.15, 0.35],
            anoms: (0, 0),
        }
    }

    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns the entries of the next `beats` beats.
    pub(crate) fn beats(&mut self, beats: u64) -> Vec<(f64, String)> {
        (0..beats).flat_map(|_| self.beat(true)).collect()
    }

    /// Advances by `beats` beats without creating entries.
    pub(crate) fn skip(&mut self, beats: u64) {
        (0..beats).for_each(|_| drop(self.beat(false)));
    }

    /// Advances by one beat and returns its seven entries, or none unless `wanted`.
    fn beat(&mut self, wanted: bool) -> Vec<(f64, String)> {
        self.beat += 1;
        let late = self.pace.jitter * self.random() * self.random();
        let timestamp = self.started + self.beat as f64 * self.pace.period + late;
        let (genome, sensed) = self.anoms;
        let total = genome + sensed;
        let [r, b, e, o] = self.weights;

        let urgency = (genome as f64 / 100.0).min(0.9);
        let conserve = (0.3 + (1.0 - (T_LAMBDA - 0.02_f64).abs()) * 0.2).clamp(0.0, 1.0);
        self.balance = (self.balance + conserve) / 2.0;
        let threat = 1.0 / (1.0 + (-(0.12 * total as f64 + 0.0)).exp());
        let gain = (o * 0.12).min(0.5);
        let action = match threat {
            0.85.. => "QUARANTINE",
            0.60.. => "ALERT",
            _ if conserve * b > 0.25 && urgency * r < 0.1 => "APPLY_BALANCE",
            _ if gain * o > 0.1 => "APPLY_OPTIMIZE",
            _ => "NOOP",
        };

        let dt = self.last.map_or(0.0, |last| (timestamp - last).max(0.0));
        let error = T_LAMBDA - 0.02;
        self.integral = (self.integral + error * dt).clamp(-1.0, 1.0);
        let derivative = if dt == 0.0 { 0.0 } else { (error - self.last_error) / dt };
        let (p, i, d) = (0.6 * error, 0.1 * self.integral, 0.05 * derivative);
        let output = p + i + d;
        let delta_o = (-output).clamp(-0.05, 0.05);
        let delta_v = error - self.last_error;
        (self.last, self.last_error) = (Some(timestamp), error);

        let new_o = (o + delta_o).clamp(0.1, 0.9);
        let feedback = 0.15 * threat * (-(self.beat as f64) / 50.0).exp() * (1.0 - new_o / 0.3);
        let new_e = if threat > 0.5 { feedback } else { 0.10 }.clamp(0.05, 0.30);
        let sum = r + b + new_e + new_o;
        self.weights = [r / sum, b / sum, new_e / sum, new_o / sum];

        if !wanted {
            return Vec::new();
        }
        let flow = |flow: &str, result: Value| json!({"type": "flow_result", "flow": flow, "result": result});
        [
            json!({
                "type": "pulse",
                "pulse": {
                    "pulse_id": self.beat, "timestamp": timestamp, "elapsed": timestamp - self.started,
                    "t_lambda": T_LAMBDA, "k": 4, "p": 5, "kp": 20,
                },
                "features": {"anoms": sensed},
            }),
            flow("R", json!({"urgency": urgency, "cost": urgency * 0.5})),
            flow("B", json!({"conserve": conserve, "kp": 0.6, "ki": 0.1, "kd": 0.05, "balance_state": self.balance})),
            flow(
                "E",
                json!({
                    "threat_score": threat, "total_anoms": total, "ml_weight": 0.12, "ml_bias": 0.0,
                    "explanation": format!("{total} anomalies"), "version": "0.1.0",
                }),
            ),
            flow("O", json!({"expected_gain": gain})),
            json!({
                "type": "action",
                "action": action,
                "details": {
                    "threat": threat * e, "stability": conserve * b, "repair_score": urgency * r,
                    "opt_gain": gain * o, "raw_threat": threat, "raw_urgency": urgency,
                    "raw_conserve": conserve, "raw_gain": gain,
                },
            }),
            json!({
                "type": "evolution",
                "beat": self.beat,
                "weights": {
                    "R": self.weights[0], "B": self.weights[1], "E": self.weights[2], "O": self.weights[3],
                },
                "pid": {
                    "dt": dt, "error": error, "integral": self.integral, "derivative": derivative, "p_term": p,
                    "i_term": i, "d_term": d, "output": output, "delta_o": delta_o, "delta_v": delta_v,
                    "stable": delta_v <= 0.0,
                },
            }),
        ]
        .iter()
        .map(|data| (timestamp, to_string(data).expect("finite")))
        .collect()
    }
}
