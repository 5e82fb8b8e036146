//! Hostile text in a ledger's head reaches no terminal, log, Event or condition as it is.
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::world::{condition, in_world, message};

/// Clears the screen, sets a title, starts a line of its own, reorders what is read; and is long.
const HOSTILE: &str = "\x1b[2J\x1b]0;owned\x07\r\nverified: all is well\n\u{9b}31m\u{202e}";

fn assert_printable(what: &str, text: &str) {
    for line in text.lines() {
        let steers =
            |it: char| it.is_control() || matches!(it, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
        assert!(!line.chars().any(steers), "{what}: {line:?}");
        assert!(line.len() <= 5000, "{what} has a line of {} bytes", line.len());
        assert!(!line.starts_with("verified: all is well"), "{what}: {text}");
    }
}

#[tokio::test]
async fn a_hostile_head_steers_nothing() {
    in_world(async |world| {
        for format in ["text", "json"] {
            let operator = world.operator_with("alpha", &["--log-format", format]);
            world.create::<Organism>(format, json!({"pulse": {"minPeriod": "20ms"}})).await;
            world.beating(format).await;
            // A field of the wrong type: the parser's error quotes all of it.
            let text = HOSTILE.to_owned() + &"x".repeat(100_000);
            world.edit_head(format, |head| head["size"] = json!(text)).await;
            let status = world
                .until(format, "a head that cannot be read", |it| {
                    condition(it, "Ready") == ("False".into(), "HeadUnreadable".into())
                })
                .await;
            let told = message(&status, "Ready");
            assert_printable("the condition", &told);
            assert!(told.contains(r"\u{1b}[2J") && told.contains("venom ledger repair"), "{told}");

            let events: Api<Event> = Api::namespaced(world.client.clone(), &world.namespace);
            let note = eventually("an Event", async || {
                let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
                let about = |it: &&Event| {
                    it.reason.as_deref() == Some("HeadUnreadable")
                        && it.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some(format)
                };
                all.iter().find(about).and_then(|it| it.note.clone()).ok_or_else(|| format!("{}", all.len()))
            })
            .await;
            assert_printable("the Event", &note);
            assert!(note.len() <= 1024 && note.contains(r"\u{1b}[2J"), "{note}");
            for command in ["show", "verify", "replay", "export"] {
                let told = world.venom_ledger(command, format).unwrap_err();
                assert_printable(command, &told);
                assert!(told.contains(r"\u{1b}[2J"), "{command}: {told}");
            }
            let told = world.venom_ledger_with("repair", format, &["--yes"]).unwrap();
            assert_printable("repair", &told);
            assert!(told.contains(r"\u{1b}[2J"), "{told}");
            assert_printable("the log", &operator.log());
            let json = |line: &str| serde_json::from_str::<Value>(line).is_ok();
            assert!(format == "text" || operator.log().lines().all(json), "{}", operator.log());
        }
    })
    .await;
}
