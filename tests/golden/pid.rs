use serde_json::json;
use venom::organism::genome::PidGains;
use venom::organism::input::PidChange;
use venom::organism::pid::Pid;

use super::{compare, float, json as file, list};

#[test]
fn the_pid_derives_every_step() {
    for sequence in list(&file("pid.json"), "sequences") {
        let mut gains: PidGains = serde_json::from_value(sequence["gains"].clone()).unwrap();
        let mut pid = Pid::default();
        for (i, step) in list(sequence, "steps").iter().enumerate() {
            if let Some(changed) = step.get("gains") {
                let changed: PidChange = serde_json::from_value(changed.clone()).unwrap();
                changed.apply(&mut gains);
            }
            let got = pid.step(&gains, float(&step["t_lambda"]), float(&step["timestamp"]));
            let mut got = json!(got);
            got["settled"] = json!(pid.settled() == Some(true));
            compare(&format!("{}[{i}]", sequence["name"]), &got, &step["expect"]);
        }
    }
}
