//! The state from which the next beat is derived, and how inputs change it: "Derivation" in the format.

use serde_json::{Map, Value, json};

/// Regen, Balance, Entropy, Optimize: the order in which their weights are summed.
pub const CORES: [&str; 4] = ["R", "B", "E", "O"];
/// Maximum number of items each of injected and sensed, pending ones included.
const MAX_ITEMS: usize = 4096;
/// Maximum number of anomalies in one entry.
const MAX_ANOMS: u64 = 1_000_000;

#[derive(Clone, Debug)]
pub struct State {
    /// As last set by genesis or config, with defaults; `config.pulse.p` is the p in force.
    pub genome: Value,
    pub config: Value,
    pub version: Value,
    pub started: f64,
    pub tau: f64,
    pub beat: u64,
    pub action: String,
    pub weights: [f64; 4],
    pub ml_weight: f64,
    pub ml_bias: f64,
    pub balance_state: f64,
    pub integral: f64,
    pub error: f64,
    /// Timestamp of the last pulse; `None` before the first pulse and after a resume.
    pub last: Option<f64>,
    pub recent: Vec<bool>,
    pub injected: Vec<(f64, u64)>,
    pub sensed: Vec<(f64, u64)>,
    pub pending_injected: Vec<u64>,
    pub pending_sensed: Vec<u64>,
}

/// Returns the number at a dotted path.
pub fn number(value: &Value, path: &str) -> Result<f64, String> {
    let found = path.split('.').fold(value, |at, key| &at[key]);
    found.as_f64().ok_or_else(|| format!("{path} is {found}, not a number"))
}

pub fn integer(value: &Value, path: &str) -> Result<u64, String> {
    let found = path.split('.').fold(value, |at, key| &at[key]);
    found.as_u64().ok_or_else(|| format!("{path} is {found}, not an integer"))
}

/// Returns `genome` with defaults for the fields that a genesis may omit.
fn with_defaults(genome: &Value) -> Value {
    let mut whole = json!({
        "evolution": "Enabled",
        "ml": {"ml_bias": 0.0},
        "risk": {"window": 0.0},
        "thresholds": {"quarantine": 0.85, "alert": 0.60, "stability": 0.25, "repair": 0.1, "gain": 0.1},
    });
    merge(&mut whole, genome);
    whole
}

/// Overwrites the fields of `whole` with those of `change`, recursively.
fn merge(whole: &mut Value, change: &Value) {
    match (whole, change) {
        (Value::Object(whole), Value::Object(change)) => {
            for (key, value) in change {
                merge(whole.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (whole, change) => *whole = change.clone(),
    }
}

fn weights_of(value: &Value) -> Result<[f64; 4], String> {
    let mut weights = [0.0; 4];
    for (weight, core) in weights.iter_mut().zip(CORES) {
        *weight = number(value, core)?;
    }
    Ok(weights)
}

fn items(value: &Value) -> Result<Vec<(f64, u64)>, String> {
    serde_json::from_value(value.clone()).map_err(|error| format!("{value}: {error}"))
}

impl State {
    pub fn genesis(timestamp: f64, data: &Value) -> Result<Self, String> {
        let genome = with_defaults(&data["genome"]);
        Ok(Self {
            weights: weights_of(&genome["weights"])?,
            ml_weight: number(&genome, "ml.ml_weight")?,
            ml_bias: number(&genome, "ml.ml_bias")?,
            genome,
            config: data["config"].clone(),
            version: data["version"].clone(),
            started: timestamp,
            tau: 0.0,
            beat: 0,
            action: "NOOP".into(),
            balance_state: 0.5,
            integral: 0.0,
            error: 0.0,
            last: None,
            recent: vec![],
            injected: vec![],
            sensed: vec![],
            pending_injected: vec![],
            pending_sensed: vec![],
        })
    }

    pub fn snapshot(data: &Value) -> Result<Self, String> {
        let action = data["action"].as_str().ok_or("a snapshot without action")?;
        let recent = serde_json::from_value(data["pid"]["recent"].clone());
        Ok(Self {
            weights: weights_of(&data["weights"])?,
            ml_weight: number(data, "ml.ml_weight")?,
            ml_bias: number(data, "ml.ml_bias")?,
            genome: with_defaults(&data["genome"]),
            config: data["config"].clone(),
            version: data["version"].clone(),
            started: number(data, "started")?,
            tau: number(data, "tau")?,
            beat: integer(data, "beat")?,
            action: action.to_owned(),
            balance_state: number(data, "balance_state")?,
            integral: number(data, "pid.integral")?,
            error: number(data, "pid.error")?,
            last: data["pid"]["last"].as_f64(),
            recent: recent.map_err(|error| format!("pid.recent: {error}"))?,
            injected: items(&data["injected"])?,
            sensed: items(&data["sensed"])?,
            pending_injected: vec![],
            pending_sensed: vec![],
        })
    }

    /// Returns the data of a snapshot of this state.
    pub fn to_snapshot(&self) -> Value {
        json!({
            "type": "snapshot",
            "version": self.version,
            "beat": self.beat,
            "tau": self.tau,
            "started": self.started,
            "weights": weights_value(&self.weights),
            "ml": {"ml_weight": self.ml_weight, "ml_bias": self.ml_bias},
            "pid": {"integral": self.integral, "error": self.error, "last": self.last, "recent": self.recent},
            "balance_state": self.balance_state,
            "action": self.action,
            "injected": self.injected,
            "sensed": self.sensed,
            "genome": self.genome,
            "config": self.config,
        })
    }

    pub fn has_pending_anomalies(&self) -> bool {
        !self.pending_injected.is_empty() || !self.pending_sensed.is_empty()
    }

    /// Applies a config: each field by itself, from the next pulse on.
    pub fn configure(&mut self, data: &Value) -> Result<(), String> {
        let changed = |key: &str| data.get(key).filter(|it| !it.is_null());
        if let Some(pulse) = changed("pulse")
            && pulse.get("p").is_some()
        {
            return Err("a config sets p, which only a scale may change".into());
        }
        for key in ["weights", "risk", "ml", "thresholds", "evolution"] {
            if let Some(change) = changed(key) {
                merge(&mut self.genome[key], change);
            }
        }
        for key in ["pulse", "pid"] {
            if let Some(change) = changed(key) {
                merge(&mut self.config[key], change);
            }
        }
        if let Some(version) = changed("version") {
            self.version = version.clone();
        }
        for (at, core) in CORES.iter().enumerate() {
            if let Some(weight) = data["weights"][*core].as_f64() {
                self.weights[at] = weight;
            }
        }
        self.set_model(&data["ml"]);
        let anoms = integer(&self.genome, "risk.anoms")?;
        if anoms > MAX_ANOMS {
            return Err(format!("risk.anoms is {anoms}"));
        }
        Ok(())
    }

    fn set_model(&mut self, ml: &Value) {
        self.ml_weight = ml["ml_weight"].as_f64().unwrap_or(self.ml_weight);
        self.ml_bias = ml["ml_bias"].as_f64().unwrap_or(self.ml_bias);
    }

    pub fn inject(&mut self, data: &Value) -> Result<(), String> {
        data["id"].as_str().ok_or("an injection without id")?;
        if let Some(anoms) = counted_anoms(data)? {
            if self.injected.len() + self.pending_injected.len() >= MAX_ITEMS {
                return Err(format!("more than {MAX_ITEMS} injections in the risk window"));
            }
            self.pending_injected.push(anoms);
        }
        self.set_model(data);
        Ok(())
    }

    pub fn sense(&mut self, data: &Value) -> Result<(), String> {
        for key in ["source", "kind", "subject"] {
            data[key].as_str().ok_or_else(|| format!("a sense without {key}"))?;
        }
        integer(data, "anoms")?;
        if data["suppressed"] == true {
            return Ok(());
        }
        if let Some(anoms) = counted_anoms(data)? {
            if self.sensed.len() + self.pending_sensed.len() >= MAX_ITEMS {
                return Err(format!("more than {MAX_ITEMS} senses in the risk window"));
            }
            self.pending_sensed.push(anoms);
        }
        Ok(())
    }

    pub fn scale(&mut self, data: &Value) -> Result<(), String> {
        let (p, from) = (integer(data, "p")?, integer(data, "from")?);
        let before = integer(&self.config, "pulse.p")?;
        if from != before || p < 1 {
            return Err(format!("a scale from {from} to {p}, but p is {before}"));
        }
        self.config["pulse"]["p"] = p.into();
        Ok(())
    }

    pub fn resume(&mut self, data: &Value) -> Result<(), String> {
        const REASONS: [&str; 5] = ["restart", "takeover", "unsuspended", "beatsRaised", "genomeBack"];
        if !REASONS.iter().any(|it| data["reason"] == *it) || !data["operator"].is_string() {
            return Err(format!("invalid reason {} or operator {}", data["reason"], data["operator"]));
        }
        integer(data, "epoch")?;
        self.last = None;
        Ok(())
    }
}

/// Returns the anomalies that an entry adds to the risk window, if any.
fn counted_anoms(data: &Value) -> Result<Option<u64>, String> {
    let anoms = match &data["anoms"] {
        Value::Null => 0,
        _ => integer(data, "anoms")?,
    };
    if anoms > MAX_ANOMS {
        return Err(format!("{anoms} anomalies in one entry"));
    }
    Ok((anoms > 0).then_some(anoms))
}

pub fn weights_value(weights: &[f64; 4]) -> Value {
    let fields: Map<String, Value> =
        CORES.iter().zip(weights).map(|(core, weight)| ((*core).to_owned(), json!(weight))).collect();
    Value::Object(fields)
}
