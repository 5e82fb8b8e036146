//! Operators that are killed between two writes of a response.
//!
//! An admission policy denies chosen writes, so that an operator gets exactly so far and no further: what is killed then
//! is killed at a known step. Each row of a table is an Organism of its own, and the operator is killed when all of them
//! are held at their steps.
use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use serde_json::{Value, json};
use venom::api::Organism;
use venom::ledger::entry::Change;

use crate::denial::Write::{self, Autoscaler, Body, Detached, Entry, Finalizer, Isolation, Status};
use crate::denial::{Denial, WORDS};
use crate::harness::eventually;
use crate::response::{QUARANTINE, applied};
use crate::world::{World, condition, in_world, message};

const ALL: [Write; 7] = [Body, Isolation, Autoscaler, Finalizer, Detached, Entry, Status];

/// One step at which an operator is killed.
struct Row {
    /// Also the name of its Organism.
    name: &'static str,
    denied: &'static [Write],
    /// What is done all the same before the operator is killed.
    done: &'static [Write],
}

impl Row {
    /// What the ledger may have recorded: the first if the killed operator has recorded its change.
    fn among<'a>(&self, may: &'a [&'a [&'a str]; 2]) -> &'a [&'a [&'a str]] {
        if self.done.contains(&Entry) { &may[..1] } else { may }
    }
}

const fn row(name: &'static str, denied: &'static [Write], done: &'static [Write]) -> Row {
    Row { name, denied, done }
}

/// The finalizer is added before the first Service is changed.
const APPLY: [Row; 13] = [
    row("decision-only", &[Body, Isolation, Autoscaler, Finalizer, Detached], &[]),
    row("body-only", &[Isolation, Autoscaler, Finalizer, Detached], &[Body]),
    row("isolation-only", &[Body, Autoscaler, Finalizer, Detached], &[Isolation]),
    row("autoscaler-only", &[Body, Isolation, Finalizer, Detached], &[Autoscaler]),
    row("finalizer-only", &[Body, Isolation, Autoscaler, Detached], &[Finalizer]),
    row("service-only", &[Body, Isolation, Autoscaler], &[Finalizer, Detached]),
    row("all-but-body", &[Body], &[Isolation, Autoscaler, Finalizer, Detached]),
    row("all-but-isolation", &[Isolation], &[Body, Autoscaler, Finalizer, Detached]),
    row("all-but-autoscaler", &[Autoscaler], &[Body, Isolation, Finalizer, Detached]),
    row("all-but-finalizer", &[Finalizer], &[Body, Isolation, Autoscaler]),
    row("all-but-service", &[Detached], &[Body, Isolation, Autoscaler, Finalizer]),
    row("before-entry", &[Entry], &[Body, Isolation, Autoscaler, Finalizer, Detached, Status]),
    row("before-status", &[Status], &[Body, Isolation, Autoscaler, Finalizer, Detached, Entry]),
];

/// The finalizer is removed last: until then there is something to be undone.
const RELEASE: [Row; 12] = [
    row("decision-only", &[Body, Isolation, Autoscaler, Detached], &[]),
    row("body-only", &[Isolation, Autoscaler, Detached], &[Body]),
    row("isolation-only", &[Body, Autoscaler, Detached], &[Isolation]),
    row("autoscaler-only", &[Body, Isolation, Detached], &[Autoscaler]),
    row("service-only", &[Body, Isolation, Autoscaler], &[Detached]),
    row("all-but-body", &[Body], &[Isolation, Autoscaler, Detached]),
    row("all-but-isolation", &[Isolation], &[Body, Autoscaler, Detached]),
    row("all-but-autoscaler", &[Autoscaler], &[Body, Isolation, Detached]),
    row("all-but-service", &[Detached], &[Body, Isolation, Autoscaler]),
    row("all-but-finalizer", &[Finalizer], &[Body, Isolation, Autoscaler, Detached]),
    row("before-entry", &[Entry], &[Body, Isolation, Autoscaler, Finalizer, Detached, Status]),
    row("before-status", &[Status], &[Body, Isolation, Autoscaler, Finalizer, Detached, Entry]),
];

/// The objects that an enforcement changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    body: Value,
    pub isolation: Value,
    autoscaler: Value,
    pub service: Value,
    finalizers: Vec<String>,
}

impl World {
    /// Creates Organisms, each with a Service of a user of the same name. Returns their objects.
    pub async fn organisms_with_services(&self, names: &[&str]) -> Vec<Objects> {
        for name in names {
            // No pods: they are many, and the cluster's controllers would be busy with nothing else.
            let spec = json!({
                "pulse": {"minPeriod": "500ms"}, "nodes": {"replicas": 0}, "response": {"releaseAfter": "500ms"},
            });
            self.create::<Organism>(name, spec).await;
            self.service_for(name, name).await;
        }
        let mut objects = vec![];
        for name in names {
            self.beating(name).await;
            self.condition(name, "Quarantined", "False", "Clear").await;
            eventually(&format!("the body of {name}"), async || {
                let exists = async |it: Result<bool, kube::Error>| match it {
                    Ok(true) => Ok(()),
                    other => Err(format!("{other:?}")),
                };
                let policies = self.of::<NetworkPolicy>();
                for policy in ["body", "quarantine"] {
                    let found = policies.get_metadata_opt(&format!("{name}-{policy}")).await;
                    exists(found.map(|it| it.is_some())).await?;
                }
                let scaler = self.of::<HorizontalPodAutoscaler>().get_metadata_opt(name).await;
                exists(scaler.map(|it| it.is_some())).await
            })
            .await;
            objects.push(self.objects_of(name).await);
        }
        objects
    }

    pub async fn objects_of(&self, name: &str) -> Objects {
        Objects {
            body: self.plain::<NetworkPolicy>(&format!("{name}-body")).await,
            isolation: self.plain::<NetworkPolicy>(&format!("{name}-quarantine")).await,
            autoscaler: self.plain::<HorizontalPodAutoscaler>(name).await,
            service: self.plain::<Service>(name).await,
            finalizers: self.organisms.get_metadata(name).await.unwrap().finalizers().to_vec(),
        }
    }

    /// What differs from how it was before the quarantine.
    async fn changed(&self, name: &str, before: &Objects) -> BTreeSet<Write> {
        let now = self.objects_of(name).await;
        let head = self.store(name).await.head().await.unwrap().unwrap().head.unwrap();
        let differs = [
            (Body, now.body != before.body),
            (Isolation, now.isolation != before.isolation),
            (Autoscaler, now.autoscaler != before.autoscaler),
            (Finalizer, now.finalizers != before.finalizers),
            (Detached, now.service != before.service),
            (Entry, head.enforcement.is_some_and(|it| it.change == Change::Apply)),
            (Status, applied(&self.status(name).await).is_some()),
        ];
        differs.into_iter().filter(|it| it.1).map(|it| it.0).collect()
    }

    async fn set_anoms(&self, names: &[&str], anoms: u64) {
        join_all(names.iter().map(|name| self.patch_genome(name, json!({"risk": {"anoms": anoms}})))).await;
    }

    /// Waits until everything is in force, and the ledger ends with that.
    async fn isolated(&self, name: &str, before: &Objects, enforcements: &[&[&str]]) {
        self.condition(name, "Quarantined", "True", "Isolated").await;
        eventually(&format!("{name}: everything done"), async || {
            let changed = self.changed(name, before).await;
            if changed.iter().eq(&ALL) { Ok(()) } else { Err(format!("{changed:?}")) }
        })
        .await;
        self.recorded(name, enforcements).await;
    }

    /// Waits until everything is as before, and the ledger ends with that.
    async fn released(&self, name: &str, before: &Objects, enforcements: &[&[&str]]) {
        self.condition(name, "Quarantined", "False", "Clear").await;
        eventually(&format!("{name}: everything undone"), async || {
            let changed = self.changed(name, before).await;
            if changed.is_empty() { Ok(()) } else { Err(format!("{changed:?}")) }
        })
        .await;
        self.recorded(name, enforcements).await;
        assert_eq!(self.objects_of(name).await, *before, "{name}");
        self.venom_ledger("replay", name).unwrap();
    }

    /// The changes that the ledger's enforcement entries record are these, or one of these.
    async fn recorded(&self, name: &str, expected: &[&[&str]]) {
        let found = self.enforcements(name).await;
        let changes: Vec<_> = found.iter().map(|(change, ..)| &**change).collect();
        assert!(expected.contains(&&*changes), "{name}: {changes:?} is none of {expected:?}");
        assert!(found.iter().all(|(_, mode, refused)| mode == "Enforce" && refused.is_empty()), "{found:?}");
    }
}

/// Waits until the operator can get no further in a row, and says so.
async fn held(world: &World, row: &Row, before: &Objects, releasing: bool) {
    let expected: BTreeSet<Write> = ALL.into_iter().filter(|it| row.done.contains(it) != releasing).collect();
    eventually(&format!("row {}: only {:?} done", row.name, row.done), async || {
        let changed = world.changed(row.name, before).await;
        if changed == expected { Ok(()) } else { Err(format!("changed: {changed:?}")) }
    })
    .await;
    let told = match row.denied {
        [Status] => return,
        [Entry] => ("Ready", "False", "CommitFailing"),
        _ if releasing => ("Quarantined", "True", "Releasing"),
        _ => ("Quarantined", "False", "Incomplete"),
    };
    let (kind, status, reason) = told;
    world
        .until(row.name, &format!("{kind}={status} {reason} in the cluster's words"), |it| {
            condition(it, kind) == (status.to_owned(), reason.to_owned()) && message(it, kind).contains(WORDS)
        })
        .await;
    let changed = world.changed(row.name, before).await;
    assert_eq!(changed, expected, "row {}: it gets no further", row.name);
}

fn denied(rows: &[&'static Row]) -> Vec<(&'static str, &'static [Write])> {
    rows.iter().map(|it| (it.name, it.denied)).collect()
}

/// The rows of a table; where the decision is `turned` meanwhile, one of each kind: each row is a body of nine objects.
fn rows(table: &'static [Row], turned: bool) -> Vec<&'static Row> {
    let some = ["decision-only", "service-only", "all-but-autoscaler", "before-entry", "before-status"];
    table.iter().filter(|it| !turned || some.contains(&it.name)).collect()
}

const BOUNDLESS: [&str; 2] = ["--quarantine-limit", "100"];

/// What a ledger records of one quarantine.
const ONCE: [&str; 2] = ["apply", "release"];

/// Kills an operator between all steps of an enforcement. With `turned` the decision is another one when the next
/// operator starts.
async fn kill_while_it_applies(world: World, turned: bool) {
    let mut operator = world.operator_with_bodies("alpha", &BOUNDLESS);
    let rows = rows(&APPLY, turned);
    let names: Vec<_> = rows.iter().map(|it| it.name).collect();
    let before = world.organisms_with_services(&names).await;
    let denial = Denial::of(&world, "apply", &denied(&rows)).await;
    world.set_anoms(&names, QUARANTINE).await;
    for (row, before) in rows.iter().zip(&before) {
        held(&world, row, before, false).await;
    }
    operator.kill();
    denial.lift().await;
    if turned {
        world.set_anoms(&names, 0).await;
    }
    let _operator = world.operator_with_bodies("alpha", &BOUNDLESS);
    if !turned {
        for (name, before) in names.iter().zip(&before) {
            world.isolated(name, before, &[&["apply"]]).await;
        }
        world.set_anoms(&names, 0).await;
        for (name, before) in names.iter().zip(&before) {
            world.released(name, before, &[&ONCE]).await;
        }
        return;
    }
    // The next operator may see the decision before the beat that takes it back, and finish what it asks for.
    let may: [&[&str]; 2] = [&ONCE, &[]];
    for (row, before) in rows.iter().zip(&before) {
        world.released(row.name, before, row.among(&may)).await;
    }
}

/// The same for what undoes it.
async fn kill_while_it_releases(world: World, turned: bool) {
    let mut operator = world.operator_with_bodies("alpha", &BOUNDLESS);
    let rows = rows(&RELEASE, turned);
    let names: Vec<_> = rows.iter().map(|it| it.name).collect();
    let before = world.organisms_with_services(&names).await;
    world.set_anoms(&names, QUARANTINE).await;
    for (name, before) in names.iter().zip(&before) {
        world.isolated(name, before, &[&["apply"]]).await;
    }
    let denial = Denial::of(&world, "release", &denied(&rows)).await;
    world.set_anoms(&names, 0).await;
    for (row, before) in rows.iter().zip(&before) {
        held(&world, row, before, true).await;
    }
    operator.kill();
    denial.lift().await;
    if turned {
        world.set_anoms(&names, QUARANTINE).await;
    }
    let _operator = world.operator_with_bodies("alpha", &BOUNDLESS);
    if !turned {
        for (name, before) in names.iter().zip(&before) {
            world.released(name, before, &[&ONCE]).await;
        }
        return;
    }
    // Where the release is not recorded, the quarantine has never ended; or the next operator has ended it first.
    let may: [&[&str]; 2] = [&["apply", "release", "apply"], &["apply"]];
    for (row, before) in rows.iter().zip(&before) {
        world.isolated(row.name, before, row.among(&may)).await;
    }
    world.set_anoms(&names, 0).await;
    let may: [&[&str]; 2] = [&["apply", "release", "apply", "release"], &ONCE];
    for (row, before) in rows.iter().zip(&before) {
        world.released(row.name, before, row.among(&may)).await;
    }
}

/// One after the other: each is a cluster's work.
#[tokio::test]
async fn an_operator_killed_between_two_steps_of_an_enforcement_leaves_the_rest_to_the_next() {
    for turned in [false, true] {
        in_world(async |world| kill_while_it_applies(world, turned).await).await;
    }
}

#[tokio::test]
async fn an_operator_killed_between_two_steps_of_a_release_leaves_the_rest_to_the_next() {
    for turned in [false, true] {
        in_world(async |world| kill_while_it_releases(world, turned).await).await;
    }
}

/// What was applied in part, and so is not recorded, is undone when the decision is gone; that fails, and is said.
#[tokio::test]
async fn what_is_left_of_an_enforcement_that_was_never_complete_is_told() {
    in_world(async |world| {
        let mut operator = world.operator_with_bodies("alpha", &[]);
        let names = ["policy", "service", "finalizer"];
        let before = world.organisms_with_services(&names).await;
        let never: Vec<(&str, &[Write])> = names.map(|it| (it, &[Autoscaler][..])).into();
        let denial = Denial::of(&world, "apply", &never).await;
        world.set_anoms(&names, QUARANTINE).await;
        let row = |name| row(name, &[Autoscaler], &[Body, Isolation, Finalizer, Detached]);
        for (row, before) in names.map(row).iter().zip(&before) {
            held(&world, row, before, false).await;
        }

        let undone: [(&str, &[Write]); 3] =
            [("policy", &[Isolation]), ("service", &[Detached]), ("finalizer", &[Finalizer])];
        let second = Denial::of(&world, "release", &undone).await;
        world.set_anoms(&names, 0).await;
        let told = async || {
            for name in ["policy", "service"] {
                world
                    .until(name, "what is left of it", |it| {
                        condition(it, "Quarantined") == ("True".into(), "Releasing".into())
                            && message(it, "Quarantined").contains(WORDS)
                    })
                    .await;
            }
        };
        told().await;
        denial.lift().await;
        // Another process does not know that anything was begun.
        operator.kill();
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.beats_more("policy", 30).await;
        told().await;
        second.lift().await;
        for (name, before) in names.iter().zip(&before) {
            world.released(name, before, &[&[], &ONCE]).await;
        }
    })
    .await;
}
