//! Derivation of the seven entries of a beat from the state before it: steps 1 to 9 of the format.

use serde_json::{Value, json};

use super::state::{State, integer, number, weights_value};

/// Number of PID steps whose `stable` is part of the state.
const RECENT: usize = 10;

/// A derived beat.
pub struct Derived {
    /// Data of the seven entries.
    pub data: [Value; 7],
    /// Seconds since the last pulse; determines the tolerance of the PID terms.
    pub dt: f64,
}

impl State {
    /// Derives the beat at `timestamp`. `failures` holds the reasons of failed cores in the order R, B, E, O. They are
    /// inputs: recorded, and not derivable.
    pub fn beat(&mut self, timestamp: f64, failures: &[Option<Value>; 4]) -> Result<Derived, String> {
        let (k, p) = (integer(&self.config, "pulse.k")?, integer(&self.config, "pulse.p")?);
        if k < 1 || p < 1 || k * p == 1 {
            return Err(format!("a beat with k = {k} and p = {p}"));
        }
        let t_lambda = {
            let (t1, u) = (number(&self.config, "pulse.t1")?, number(&self.config, "pulse.u")?);
            (t1 * u.ln() / (1.0 - 1.0 / (k * p) as f64)).max(1e-6)
        };
        let since_last = self.last.map(|last| (timestamp - last).max(0.0));
        self.advance_time(since_last)?;
        self.beat += 1;

        let sum = |items: &[(f64, u64)]| items.iter().map(|(_, anoms)| anoms).sum::<u64>();
        let genome_anoms = integer(&self.genome, "risk.anoms")? + sum(&self.injected);
        let features = sum(&self.sensed);
        let total = genome_anoms + features;
        let gains = &self.config["pid"];
        let [r, b, e, o] = self.weights;

        let urgency = (genome_anoms as f64 / 100.0).min(0.9);
        let conserve = (0.3 + (1.0 - (t_lambda - 0.02).abs()) * 0.2).clamp(0.0, 1.0);
        let balance_state = (self.balance_state + conserve) / 2.0;
        let threat = 1.0 / (1.0 + (-(self.ml_weight * total as f64 + self.ml_bias)).exp());
        let gain = (o * 0.12).min(0.5);
        let results = [
            json!({"urgency": urgency, "cost": urgency * 0.5}),
            json!({"conserve": conserve, "kp": gains["kp"], "ki": gains["ki"], "kd": gains["kd"], "balance_state": balance_state}),
            json!({"threat_score": threat, "total_anoms": total, "ml_weight": self.ml_weight, "ml_bias": self.ml_bias, "version": self.version}),
            json!({"expected_gain": gain}),
        ];
        let held = failures.iter().any(Option::is_some);
        let dt = since_last.unwrap_or(0.0);
        let (action, evolution) = if held {
            let weights = weights_value(&self.weights);
            (
                json!({"type": "action", "action": self.action, "held": true, "details": {}}),
                json!({"type": "evolution", "beat": self.beat, "held": true, "weights": weights}),
            )
        } else {
            let details = json!({
                "threat": threat * e, "stability": conserve * b, "repair_score": urgency * r, "opt_gain": gain * o,
                "raw_threat": threat, "raw_urgency": urgency, "raw_conserve": conserve, "raw_gain": gain,
            });
            self.action = self.decide(&details)?.to_owned();
            self.balance_state = balance_state;
            let pid = self.step_pid(t_lambda, dt)?;
            if self.genome["evolution"] != "Frozen" {
                self.evolve(number(&pid, "delta_o")?, threat);
            }
            let weights = weights_value(&self.weights);
            (
                json!({"type": "action", "action": self.action, "details": details}),
                json!({"type": "evolution", "beat": self.beat, "weights": weights, "pid": pid}),
            )
        };
        self.last = Some(timestamp);

        let pulse = json!({
            "type": "pulse", "features": {"anoms": features},
            "pulse": {
                "pulse_id": self.beat, "timestamp": timestamp, "elapsed": timestamp - self.started,
                "t_lambda": t_lambda, "k": k, "p": p, "kp": k * p,
            },
        });
        let mut flows =
            results.into_iter().zip(failures).zip(super::state::CORES).map(|((result, failure), core)| {
                match failure {
                    Some(reason) => json!({"type": "flow_result", "flow": core, "failed": reason}),
                    None => json!({"type": "flow_result", "flow": core, "result": result}),
                }
            });
        let [r, b, e, o] = std::array::from_fn(|_| flows.next().unwrap_or_default());
        Ok(Derived { data: [pulse, r, b, e, o, action, evolution], dt })
    }

    /// Steps 1 and 2: advances τ; anomalies leave and join the risk window.
    fn advance_time(&mut self, since_last: Option<f64>) -> Result<(), String> {
        let limit = f64::max(10.0, 2.0 * self.config["pulse"]["min_period"].as_f64().unwrap_or(0.0));
        self.tau += since_last.map_or(0.0, |passed| passed.min(limit));
        let (tau, window) = (self.tau, number(&self.genome, "risk.window")?);
        for items in [&mut self.injected, &mut self.sensed] {
            items.retain(|(joined, _)| window == 0.0 || tau - joined < window);
        }
        self.injected.extend(self.pending_injected.drain(..).map(|anoms| (tau, anoms)));
        self.sensed.extend(self.pending_sensed.drain(..).map(|anoms| (tau, anoms)));
        Ok(())
    }

    /// Step 5: the decision rule.
    fn decide(&self, details: &Value) -> Result<&'static str, String> {
        let threshold = |name: &str| number(&self.genome["thresholds"], name);
        let detail = |name: &str| number(details, name);
        Ok(if detail("raw_threat")? >= threshold("quarantine")? {
            "QUARANTINE"
        } else if detail("raw_threat")? >= threshold("alert")? {
            "ALERT"
        } else if detail("stability")? > threshold("stability")?
            && detail("repair_score")? < threshold("repair")?
        {
            "APPLY_BALANCE"
        } else if detail("opt_gain")? > threshold("gain")? {
            "APPLY_OPTIMIZE"
        } else {
            "NOOP"
        })
    }

    /// Step 6: the PID. Returns the `pid` of the evolution entry.
    fn step_pid(&mut self, t_lambda: f64, dt: f64) -> Result<Value, String> {
        let gain = |name: &str| number(&self.config["pid"], name);
        let error = t_lambda - gain("t_threshold")?;
        let integral = if error.abs() < 1e-4 { 0.0 } else { (self.integral + error * dt).clamp(-1.0, 1.0) };
        let delta_v = error - self.error;
        let derivative = if dt == 0.0 { 0.0 } else { delta_v / dt };
        let (p_term, i_term, d_term) =
            (gain("kp")? * error, gain("ki")? * integral, gain("kd")? * derivative);
        let output = p_term + i_term + d_term;
        let stable = delta_v <= 0.0;
        (self.error, self.integral) = (error, integral);
        self.recent.push(stable);
        if self.recent.len() > RECENT {
            self.recent.remove(0);
        }
        Ok(json!({
            "dt": dt, "error": error, "integral": integral, "derivative": derivative, "p_term": p_term,
            "i_term": i_term, "d_term": d_term, "output": output, "delta_o": (-output).clamp(-0.05, 0.05),
            "delta_v": delta_v, "stable": stable,
        }))
    }

    /// Step 7: the evolution of the weights.
    fn evolve(&mut self, delta_o: f64, threat: f64) {
        let [r, b, _, o] = self.weights;
        let o = (o + delta_o).clamp(0.1, 0.9);
        let e = if threat > 0.5 {
            0.15 * threat * (-(self.beat as f64) / 50.0).exp() * (1.0 - o / 0.3)
        } else {
            0.10
        };
        let e = e.clamp(0.05, 0.30);
        let sum = r + b + e + o;
        self.weights = [r / sum, b / sum, e / sum, o / sum];
    }
}
