//! What a user does: Organisms and Genomes are changed, Organisms deleted and made again, objects of ledgers destroyed.
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use venom::api::{Genome, Organism};
use venom::store::configmap::ConfigMaps;
use venom::store::{Head, SegmentRef};

use crate::evidence::{Destroyed, Evidence};
use crate::faults::Schedule;
use crate::harness::within;
use crate::ledger::forged;
use crate::world::{World, condition};

/// Has nodes and takes injections.
pub const INJECTED: &str = "injected";
/// Keeps few entries.
pub const PRUNED: &str = "pruned";
/// Of these nothing is destroyed, and they are never deleted.
pub const SPARED: [&str; 2] = [INJECTED, PRUNED];
/// These suffer everything.
pub const VICTIMS: [&str; 4] = ["one", "two", "three", "four"];

/// Longest time that one call may take: the API server may be stopped.
const CALL: Duration = Duration::from_secs(30);
/// How long everything may take to work again.
const RECOVERY: Duration = Duration::from_secs(240);

/// All Organisms of a run.
pub fn names() -> impl Iterator<Item = &'static str> {
    SPARED.into_iter().chain(VICTIMS)
}

/// The user. Its calls may fail at any time, and it notes what it is about to destroy before it does.
pub struct User {
    pub world: Arc<World>,
    pub evidence: Evidence,
}

fn spec(name: &str) -> Value {
    let (retain, period) = if name == PRUNED { ("256Ki", "15ms") } else { ("16Mi", "50ms") };
    json!({
        "pulse": {"minPeriod": period},
        "nodes": {"replicas": 1},
        "autoscaling": {"enabled": false},
        "ledger": {"commitInterval": "200ms", "onDelete": "Retain", "retain": {"bytes": retain}},
    })
}

/// Makes what a call returns a text, and ends it where there is no answer.
async fn call<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match timeout(CALL, call).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("no answer".into()),
    }
}

impl User {
    /// Creates every Organism, with a Genome of its own.
    pub async fn create_all(&self) {
        for name in names() {
            // A window of a second keeps the number of counting injections below its limit.
            self.world.create::<Genome>(name, json!({"risk": {"window": "1s"}})).await;
            self.world.create::<Organism>(name, spec(name)).await;
        }
    }

    /// Random changes, one after the other.
    pub async fn suffer(&self, schedule: Schedule, mut rng: Rng) {
        while schedule.goes_on() {
            schedule.pause(schedule.some_time(&mut rng)).await;
            let victim = VICTIMS[rng.usize(..VICTIMS.len())];
            let any = names().nth(rng.usize(..names().count())).unwrap();
            match rng.u32(..12) {
                0..2 => {
                    let suspend = rng.bool();
                    self.change("organism-suspended", any, json!({"suspend": suspend})).await;
                }
                2..4 => {
                    let (period, interval) = (rng.u32(20..150), rng.u32(50..800));
                    let pulse = json!({"minPeriod": format!("{period}ms")});
                    let ledger = json!({"commitInterval": format!("{interval}ms")});
                    self.change("organism-changed", any, json!({"pulse": pulse, "ledger": ledger})).await;
                }
                4..6 => {
                    let anoms = [0, 5, 20][rng.usize(..3)];
                    let spec = json!({"spec": {"risk": {"anoms": anoms}}});
                    if patch(&self.world.genomes, any, spec).await.is_ok() {
                        self.evidence.fault("genome-changed", &format!("{any} {anoms} anomalies"));
                    }
                }
                6..8 => self.make_again(victim).await,
                8 => self.delete_a_head(&mut rng).await,
                9 => self.destroy_segment(victim, false, &mut rng).await,
                10 => self.destroy_segment(victim, true, &mut rng).await,
                _ => {}
            }
        }
    }

    async fn change(&self, kind: &'static str, name: &str, spec: Value) {
        if patch(&self.world.organisms, name, json!({"spec": spec})).await.is_ok() {
            self.evidence.fault(kind, &format!("{name} {spec}"));
        }
    }

    /// Deletes an Organism that leaves its ledger, and makes another one of that name.
    async fn make_again(&self, name: &'static str) {
        if call(self.world.organisms.delete(name, &DeleteParams::default())).await.is_err() {
            return;
        }
        self.evidence.fault("organism-deleted", name);
        self.make(name).await;
    }

    /// Creates an Organism that was deleted, once it is gone. It is gone when an operator has let it go.
    async fn make(&self, name: &'static str) {
        let organism: Organism = serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": spec(name),
        }))
        .unwrap();
        within(RECOVERY, &format!("{name} to be made again"), async || {
            match call(self.world.organisms.get_metadata_opt(name)).await? {
                Some(found) if found.metadata.deletion_timestamp.is_none() => return Ok(()),
                Some(found) => return Err(format!("{:?}", found.metadata.finalizers)),
                None => {}
            }
            call(self.world.organisms.create(&PostParams::default(), &organism)).await.map(drop)
        })
        .await;
    }

    /// Deletes the head of a ledger.
    pub async fn delete_a_head(&self, rng: &mut Rng) {
        let organism = VICTIMS[rng.usize(..VICTIMS.len())];
        let name = format!("{organism}-ledger");
        let Ok(object) = call(self.world.maps.get(&name)).await else { return };
        let Some(uid) = object.uid() else { return };
        let Ok(head) = Head::parse(&object.data.unwrap_or_default()["head"]) else { return };
        let destroyed = Destroyed { organism: organism.to_owned(), generation: head.generation, range: None };
        self.delete(&name, &uid, destroyed, "head-deleted").await;
    }

    /// Deletes a segment, and perhaps puts a forged one in its place.
    async fn destroy_segment(&self, organism: &str, forge: bool, rng: &mut Rng) {
        let store = ConfigMaps::new(self.world.client.clone(), &self.world.namespace, organism, "");
        let Ok(Some(found)) = store.head().await else { return };
        let Some(head) = found.head.filter(|head| !head.segments.is_empty()) else { return };
        let listed = &head.segments[rng.usize(..head.segments.len())];
        let name = store.name_of(listed);
        let Ok(object) = call(self.world.maps.get(&name)).await else { return };
        if object.uid().as_ref() != Some(&listed.object) {
            return;
        }
        let SegmentRef { first, .. } = *listed;
        let range = Some((first, listed.end() - 1));
        let destroyed = Destroyed { organism: organism.to_owned(), generation: head.generation, range };
        let kind = if forge { "segment-forged" } else { "segment-deleted" };
        if self.delete(&name, &listed.object, destroyed, kind).await && forge {
            let made = call(self.world.maps.create(&PostParams::default(), &forged(object))).await;
            made.unwrap_or_else(|error| panic!("the forged {name} is refused: {error}"));
        }
    }

    /// Deletes the object of this UID. Returns whether that is known to have happened.
    async fn delete(&self, name: &str, uid: &str, destroyed: Destroyed, kind: &'static str) -> bool {
        let detail = format!("{name} generation {} {:?}", destroyed.generation, destroyed.range);
        self.evidence.destroys(uid, destroyed);
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let done = call(self.world.maps.delete(name, &params)).await.is_ok();
        if done {
            self.evidence.fault(kind, &detail);
        }
        done
    }

    /// Every Organism exists and beats.
    pub async fn until_all_beat(&self) {
        for name in names() {
            self.make(name).await;
            within(RECOVERY, &format!("{name} to be changed"), async || {
                patch(&self.world.organisms, name, json!({"spec": {"suspend": false}})).await
            })
            .await;
        }
        for name in names() {
            let mut before = None;
            within(RECOVERY, &format!("{name} to beat"), async || {
                let status = call(self.world.organisms.get(name)).await?.status.unwrap_or_default();
                let ready = condition(&status, "Ready");
                let beats = status.beats.unwrap_or_default();
                let since = beats.saturating_sub(*before.get_or_insert(beats));
                if ready.0 == "True" && since >= 20 { Ok(()) } else { Err(format!("{ready:?} {beats}")) }
            })
            .await;
        }
    }

    /// No Organism beats, and everything that is committed is published and was seen.
    pub async fn until_all_rest(&self) {
        for name in names() {
            patch(&self.world.organisms, name, json!({"spec": {"suspend": true}})).await.unwrap();
        }
        for name in names() {
            let store = self.world.store(name).await;
            within(RECOVERY, &format!("{name} to rest"), async || {
                let head = store.head().await.map_err(|error| error.to_string())?;
                let head = head.and_then(|found| found.head).ok_or("no head")?;
                let status = call(self.world.organisms.get(name)).await?.status.unwrap_or_default();
                let ready = condition(&status, "Ready");
                let published = status.ledger.map(|it| (it.generation, it.size));
                let seen = self.evidence.facts().heads.get(&(name.to_owned(), head.generation)).cloned();
                let is = Some((head.generation, head.size));
                if ready.1 == "Suspended" && published == is && seen.as_ref() == Some(&head) {
                    return Ok(());
                }
                Err(format!("{ready:?} published {published:?} committed {is:?}"))
            })
            .await;
        }
    }
}

async fn patch<K>(api: &Api<K>, name: &str, patch: Value) -> Result<(), String>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    call(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
}

/// Waits a little between two injections.
pub async fn a_moment() {
    sleep(Duration::from_millis(fastrand::u64(100..400))).await;
}
