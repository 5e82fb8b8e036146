use serde_json::{Value, json};
use venom::organism::cores::{Cores, Failure, Flows};
use venom::organism::genome::{Config, Genome};
use venom::organism::{Input, State, beat};

use super::{compare, json as file, list};

/// Every run of engine.json: each number of each beat, and the snapshot after the last.
#[test]
fn engine_runs() {
    for run in list(&file("engine.json"), "runs") {
        let name = run["name"].as_str().unwrap();
        let genome: Genome = serde_json::from_value(run["genome"].clone()).unwrap();
        let config: Config = serde_json::from_value(run["config"].clone()).unwrap();
        let mut state = State::genesis("0.1.0", run["started"].as_f64().unwrap(), genome, config);
        for (i, beat) in list(run, "beats").iter().enumerate() {
            let at = format!("{name}[{i}]");
            one_beat(&at, &mut state, beat);
        }
        let mut snapshot = json!(state);
        snapshot["type"] = json!("snapshot");
        assert_eq!(snapshot["version"], run["snapshot"]["version"], "{name}");
        compare(&format!("{name}.snapshot"), &snapshot, &run["snapshot"]);
    }
}

fn one_beat(at: &str, state: &mut State, vector: &Value) {
    for refused in vector["refused"].as_array().into_iter().flatten() {
        let before = state.clone();
        let taken = serde_json::from_value::<Input>(refused.clone()).is_ok_and(|it| state.apply(&it).is_ok());
        assert!(!taken, "{at}: {refused} was taken");
        assert_eq!(*state, before, "{at}: {refused} changed something");
    }
    for input in vector["inputs"].as_array().into_iter().flatten() {
        let input: Input = serde_json::from_value(input.clone()).unwrap();
        state.apply(&input).unwrap_or_else(|refused| panic!("{at}: {refused}"));
    }
    let opened = beat::open(state, vector["timestamp"].as_f64().unwrap()).unwrap();
    let input = opened.input.clone();
    let flows = fail(Cores::default().run(&input), &vector["failed"]);
    let made = beat::close(state, opened, flows);

    let mut got = json!({
        "t_lambda": made.pulse.t_lambda, "k": made.pulse.k, "p": made.pulse.p, "kp": made.pulse.kp,
        "elapsed": made.pulse.elapsed, "tau": state.tau,
        "genome_anoms": input.genome_anoms, "features_anoms": made.features_anoms,
        "flows": {}, "action": made.action, "weights": made.evolved.weights,
        "settled": state.pid.settled() == Some(true),
    });
    let flows = &made.flows;
    for (flow, result) in [
        ("R", flows.regen.as_ref().ok().map(|it| json!(it))),
        ("B", flows.balance.as_ref().ok().map(|it| json!(it))),
        ("E", flows.entropy.as_ref().ok().map(|it| json!(it))),
        ("O", flows.optimize.as_ref().ok().map(|it| json!(it))),
    ] {
        if let Some(result) = result {
            got["flows"][flow] = result;
        }
    }
    match (&made.details, &made.evolved.pid) {
        (Some(details), Some(pid)) => {
            got["decvec"] = json!(details);
            got["pid"] = json!(pid);
        }
        _ => got["held"] = json!(true),
    }
    compare(at, &got, &vector["expect"]);
}

/// The flows with the named cores failed.
fn fail(mut flows: Flows, failed: &Value) -> Flows {
    let reason: Failure = "as the vector says".into();
    for core in failed.as_array().into_iter().flatten() {
        match core.as_str().unwrap() {
            "R" => flows.regen = Err(reason.clone()),
            "B" => flows.balance = Err(reason.clone()),
            "E" => flows.entropy = Err(reason.clone()),
            "O" => flows.optimize = Err(reason.clone()),
            other => panic!("unknown core {other}"),
        }
    }
    flows
}
