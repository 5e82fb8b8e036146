use serde_json::{Value, json};
use venom::organism::cores::{Cores, Failure, Flows};
use venom::organism::genome::{Config, Genome};
use venom::organism::{Input, State, beat};

use super::{compare, json as file, list};

/// Every run of engine.json: each number of each beat, and the snapshot after the last one.
#[test]
fn the_engine_derives_every_number() {
    for run in list(&file("engine.json"), "runs") {
        let name = run["name"].as_str().unwrap();
        let genome: Genome = serde_json::from_value(run["genome"].clone()).unwrap();
        let config: Config = serde_json::from_value(run["config"].clone()).unwrap();
        let mut state = State::genesis("0.1.0", run["started"].as_f64().unwrap(), genome, config);
        for (i, beat) in list(run, "beats").iter().enumerate() {
            let at = format!("{name}[{i}]");
            check_beat(&at, &mut state, beat);
        }
        let mut snapshot = json!(state);
        snapshot["type"] = json!("snapshot");
        assert_eq!(snapshot["version"], run["snapshot"]["version"], "{name}");
        compare(&format!("{name}.snapshot"), &snapshot, &run["snapshot"]);
    }
}

fn check_beat(at: &str, state: &mut State, vector: &Value) {
    for rejected in vector["refused"].as_array().into_iter().flatten() {
        let before = state.clone();
        let applied =
            serde_json::from_value::<Input>(rejected.clone()).is_ok_and(|it| state.apply(&it).is_ok());
        assert!(!applied, "{at}: {rejected} was applied");
        assert_eq!(*state, before, "{at}: {rejected} changed the state");
    }
    for input in vector["inputs"].as_array().into_iter().flatten() {
        let input: Input = serde_json::from_value(input.clone()).unwrap();
        state.apply(&input).unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    let opened = beat::open(state, vector["timestamp"].as_f64().unwrap()).unwrap();
    let input = opened.input.clone();
    let flows = with_failures(Cores::default().run(&input), &vector["failed"]);
    let closed = beat::close(state, opened, flows);

    let mut got = json!({
        "t_lambda": closed.pulse.t_lambda, "k": closed.pulse.k, "p": closed.pulse.p, "kp": closed.pulse.kp,
        "elapsed": closed.pulse.elapsed, "tau": state.tau,
        "genome_anoms": input.genome_anoms, "features_anoms": closed.features_anoms,
        "flows": {}, "action": closed.action, "weights": closed.evolved.weights,
        "settled": state.pid.settled() == Some(true),
    });
    let flows = &closed.flows;
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
    match (&closed.details, &closed.evolved.pid) {
        (Some(details), Some(pid)) => {
            got["decvec"] = json!(details);
            got["pid"] = json!(pid);
        }
        _ => got["held"] = json!(true),
    }
    compare(at, &got, &vector["expect"]);
}

/// Replaces the results of the named cores by failures.
fn with_failures(mut flows: Flows, failed: &Value) -> Flows {
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
