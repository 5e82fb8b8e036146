//! `venom ledger repair`: rebuilds the unreadable or missing head of an Organism's ledger.
//!
//! 1. Read everything: the head, the Organism, the segments and the heads of earlier generations.
//! 2. Rebuild the head from them ([`rebuild`], pure), show it, and ask.
//! 3. Keep what the old head contained, set aside what has no place in the new one, and write the new one.
//!
//! Nothing is deleted.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use sha3::{Digest, Sha3_256};

use super::super::source::{self, Connection, failed, organism_name};
use super::super::{Error, output};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER, ORGANISM_LABEL, UID_LABEL};
use crate::api::{Genome, Organism};
use crate::ledger::{SealedSegment, hex};
use crate::store::head::Forged;
use crate::store::objects::{head_name, is_ledger_object, parse_archived_name, parse_segment_name};
use crate::store::rebuild::{Candidate, Known, LARGEST_EPOCH, Published, Rebuilt, rebuild};
use crate::store::{ApiFailure, CALL_TIMEOUT, Head, HeadError};

/// Arguments of `venom ledger repair`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The Organism, organism/NAME
    #[arg(value_name = "ORGANISM")]
    organism: String,
    #[command(flatten)]
    cluster: source::Cluster,
    /// Write without asking
    #[arg(long, short)]
    yes: bool,
}

/// Segments per page of a list. A segment may have a megabyte.
const PAGE: u32 = 10;

/// Rebuilds the head, shows it, asks and writes it.
///
/// # Errors
/// [`Error`] if the head needs no repair, if it cannot be rebuilt, or if the answer is not yes. Nothing is written then.
pub fn run(args: &Args) -> Result<(), Error> {
    let name = organism_name(&args.organism).ok_or_else(|| {
        Error::Usage(format!(
            "{}: only the ledger of an Organism is repaired; write organism/NAME",
            args.organism
        ))
    })?;
    let Connection { runtime, client, namespace } = args.cluster.connect()?;
    let repair = Repair {
        maps: Api::namespaced(client.clone(), &namespace),
        organisms: Api::namespaced(client.clone(), &namespace),
        genomes: Api::namespaced(client, &namespace),
        name: name.to_owned(),
        shown: format!("organism/{name} in {namespace}"),
    };
    let plan = runtime.block_on(repair.plan())?;
    show(&repair, &plan)?;
    if !args.yes {
        output::confirm("Write this?", "nothing was written")?;
    }
    runtime.block_on(repair.write(&plan))?;
    let mut out = output::text();
    out.line(format_args!(
        "repaired: the operator continues from here; run venom ledger verify {}",
        args.organism
    ))?;
    out.finish()
}

/// The objects of the ledger to repair.
struct Repair {
    maps: Api<ConfigMap>,
    organisms: Api<Organism>,
    genomes: Api<Genome>,
    name: String,
    /// The Organism in messages.
    shown: String,
}

/// What is to be written.
struct Plan {
    /// The head's ConfigMap as it is, and what is wrong with it; `None` if it is missing.
    old: Option<(ConfigMap, String)>,
    rebuilt: Rebuilt,
    published: Option<Published>,
    /// Segments that are no candidates, and why.
    unreadable: Vec<String>,
    /// Metadata of the newest segment, from which a missing head takes its ownerReferences.
    like: ObjectMeta,
}

impl Repair {
    fn error(&self, what: &dyn std::fmt::Display) -> Error {
        failed(&self.shown, what)
    }

    async fn call<T>(&self, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.error(&ApiFailure(error))),
            Err(_) => {
                Err(self.error(&"the API server does not answer; nothing may have been written; try again"))
            }
        }
    }

    /// Reads everything and rebuilds the head.
    async fn plan(&self) -> Result<Plan, Error> {
        let old = match self.call(self.maps.get_opt(&head_name(&self.name))).await? {
            Some(object) => Some(self.damage(object)?),
            None => None,
        };
        let organism = self.call(self.organisms.get_opt(&self.name)).await?;
        let status = organism.as_ref().and_then(|it| it.status.as_ref());
        let mut known = Known {
            uid: organism.as_ref().and_then(ResourceExt::uid),
            published: status.and_then(|it| it.ledger.as_ref()).and_then(Published::of),
            lost_tail: organism.as_ref().and_then(lost_tail),
            ..Known::default()
        };
        if let Some(organism) = &organism {
            let genome = organism.spec.genome_ref.as_ref().map_or(&self.name, |it| &it.name);
            let genome = self.call(self.genomes.get_opt(genome)).await?;
            let status = genome.and_then(|genome| genome.status);
            known.injected_total = status.and_then(|status| status.injected_total).unwrap_or_default();
        }
        if let Some(fields) = old.as_ref().and_then(|(object, _)| head_text(object)).map(fields_of) {
            known.old_epoch = fields.epoch.filter(|epoch| *epoch <= LARGEST_EPOCH);
            known.lost_tail = known.lost_tail.or(fields.lost_tail);
            known.forged = fields.forged;
        }
        let (mut candidates, mut unreadable, mut like) = (vec![], vec![], ObjectMeta::default());
        let mut page = ListParams::default().labels(&format!("{ORGANISM_LABEL}={}", self.name)).limit(PAGE);
        loop {
            let list = self.call(self.maps.list(&page)).await?;
            for object in list.items {
                let name = object.name_any();
                if let Some((epoch, ..)) = parse_segment_name(&self.name, &name) {
                    if epoch > LARGEST_EPOCH {
                        unreadable.push(format!("ConfigMap {name}: the epoch in its name is out of range"));
                        continue;
                    }
                    known.highest_epoch = known.highest_epoch.max(epoch);
                    like = object.metadata.clone();
                    match candidate(object, epoch, known.published.as_ref()) {
                        Ok(candidate) => candidates.push(candidate),
                        Err(why) => unreadable.push(format!("ConfigMap {name}: {why}")),
                    }
                } else if parse_archived_name(&self.name, &name).is_some() {
                    let head = head_text(&object).map(Head::parse);
                    known.archived.extend(head.and_then(Result::ok));
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        let published = known.published.clone();
        let rebuilt = rebuild(candidates, &known).map_err(|why| self.error(&why))?;
        Ok(Plan { old, rebuilt, published, unreadable, like })
    }

    /// What is wrong with the head, or an error if it is not to be replaced.
    fn damage(&self, object: ConfigMap) -> Result<(ConfigMap, String), Error> {
        let name = head_name(&self.name);
        if !is_ledger_object(&object) {
            return Err(
                self.error(&format!("ConfigMap {name} is not a ledger's; delete or rename it, then repair"))
            );
        }
        let why = match head_text(&object).map(Head::parse) {
            None => "it has no data.head".to_owned(),
            Some(Ok(head)) if head.chain().is_none() => "its peaks, size and root are inconsistent".into(),
            Some(Ok(_)) => {
                let what = "is readable and needs no repair; venom ledger verify checks the segments";
                return Err(self.error(&format!("ConfigMap {name} {what}")));
            }
            Some(Err(error @ HeadError::Newer(_))) => {
                return Err(self.error(&format!("ConfigMap {name} is not replaced: it was {error}")));
            }
            Some(Err(HeadError::Invalid(why))) => why,
        };
        Ok((object, why))
    }

    async fn write(&self, plan: &Plan) -> Result<(), Error> {
        if let Some(kept) = plan.kept() {
            match tokio::time::timeout(CALL_TIMEOUT, self.maps.create(&PostParams::default(), &kept)).await {
                // Its name is the hash of its content.
                Ok(Err(kube::Error::Api(status))) if status.is_already_exists() => {}
                Ok(done) => drop(self.call(std::future::ready(done)).await?),
                Err(_) => return Err(self.error(&"the API server does not answer; try again")),
            }
        }
        for (name, uid) in &plan.rebuilt.left_out {
            // Without this label it is no part of a ledger, and the operator does not delete it as a leftover.
            let patch = Patch::Merge(json!({"metadata": {"uid": uid, "labels": {UID_LABEL: null}}}));
            self.call(self.maps.patch_metadata(name, &PatchParams::default(), &patch)).await?;
        }
        let text = serde_json::to_string(&plan.rebuilt.head).map_err(|error| self.error(&error))?;
        let data = Some([("head".to_owned(), text)].into());
        let uid = plan.rebuilt.head.uid.clone();
        match &plan.old {
            Some((old, _)) => {
                // Its resourceVersion is a precondition: nobody has written it since.
                let mut new = ConfigMap { data, ..old.clone() };
                new.metadata.labels.get_or_insert_default().insert(UID_LABEL.into(), uid);
                self.call(self.maps.replace(&head_name(&self.name), &PostParams::default(), &new)).await?;
            }
            None => {
                let mut metadata = plan.metadata(head_name(&self.name));
                metadata.labels.get_or_insert_default().insert(UID_LABEL.into(), uid);
                let new = ConfigMap { metadata, data, ..ConfigMap::default() };
                self.call(self.maps.create(&PostParams::default(), &new)).await?;
            }
        }
        Ok(())
    }
}

impl Plan {
    /// Metadata of a new object beside the ledger. It goes with the Organism if the ledger does.
    fn metadata(&self, name: String) -> ObjectMeta {
        let like = self.old.as_ref().map_or(&self.like, |(old, _)| &old.metadata);
        let organism = self.like.labels.as_ref().and_then(|labels| labels.get(ORGANISM_LABEL));
        let labels = [(MANAGED_BY_LABEL, MANAGER), (ORGANISM_LABEL, organism.map_or("", |it| it))];
        ObjectMeta {
            name: Some(name),
            labels: Some(labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()),
            owner_references: like.owner_references.clone(),
            ..ObjectMeta::default()
        }
    }

    /// The object that keeps the content of the old head; `None` if there is none.
    fn kept(&self) -> Option<ConfigMap> {
        let (old, _) = self.old.as_ref()?;
        let content = serde_json::to_vec(&(&old.data, &old.binary_data)).unwrap_or_default();
        let hash = hex(&Sha3_256::digest(content).into());
        Some(ConfigMap {
            metadata: self.metadata(format!("{}-unreadable-{}", old.name_any(), &hash[..8])),
            data: old.data.clone(),
            binary_data: old.binary_data.clone(),
            immutable: Some(true),
        })
    }
}

fn show(repair: &Repair, plan: &Plan) -> Result<(), Error> {
    let mut out = output::text();
    let Rebuilt { head, proven, not_proven, left_out } = &plan.rebuilt;
    let name = head_name(&repair.name);
    out.line(format_args!("{}", repair.shown))?;
    match &plan.old {
        Some((_, why)) => out.line(format_args!("  head:       ConfigMap {name} is unreadable: {why}"))?,
        None => out.line(format_args!("  head:       ConfigMap {name} is missing"))?,
    }
    match &plan.published {
        Some(Published { generation, size, root, .. }) => {
            let root = hex(root);
            out.line(format_args!("  published:  generation {generation}, {size} entries, root {root}"))?;
        }
        None => out.line(format_args!("  published:  nothing"))?,
    }
    proven.iter().try_for_each(|line| out.line(format_args!("  proven:     {line}")))?;
    let lines = not_proven.iter().chain(&plan.unreadable);
    lines.into_iter().try_for_each(|line| out.line(format_args!("  not proven: {line}")))?;
    out.line(format_args!("to be written:"))?;
    if let Some(kept) = plan.kept() {
        out.line(format_args!("  ConfigMap {}, immutable: what {name} contains now", kept.name_any()))?;
    }
    for (segment, _) in left_out {
        out.line(format_args!(
            "  ConfigMap {segment}: kept, but without the label {UID_LABEL}; it has no place in the head"
        ))?;
    }
    out.line(format_args!(
        "  ConfigMap {name}: generation {}, epoch {}, {} entries from index {} in {} segments, root {}",
        head.generation,
        head.epoch,
        head.size - head.floor,
        head.floor,
        head.segments.len(),
        head.root_hex()
    ))?;
    out.finish()
}

fn head_text(object: &ConfigMap) -> Option<&str> {
    object.data.as_ref()?.get("head").map(String::as_str)
}

fn candidate(object: ConfigMap, epoch: u64, published: Option<&Published>) -> Result<Candidate, String> {
    let (name, uid) = (object.name_any(), object.uid().unwrap_or_default());
    let head = object.data.unwrap_or_default().remove("head").unwrap_or_default();
    let entries = object.binary_data.unwrap_or_default().remove("entries").unwrap_or_default().0;
    let sealed = SealedSegment::from_parts(&head, entries).map_err(|error| error.to_string())?;
    Candidate::open(name, uid, epoch, &sealed, published)
}

/// The range in the message of LedgerIntact=False, reason TailLost.
fn lost_tail(organism: &Organism) -> Option<(u64, u64)> {
    let mut conditions = organism.status.as_ref()?.conditions.iter();
    let told = conditions.find(|it| it.type_ == "LedgerIntact" && it.reason == "TailLost")?;
    let (from, rest) = told.message.strip_prefix("Entries ")?.split_once(" to ")?;
    Some((from.parse().ok()?, rest.split(' ').next()?.parse().ok()?))
}

/// Fields of a damaged head, as far as they can be made out.
#[derive(Debug, Default, PartialEq)]
struct Fields {
    epoch: Option<u64>,
    lost_tail: Option<(u64, u64)>,
    forged: Option<Forged>,
}

fn fields_of(text: &str) -> Fields {
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        let lost_tail = serde_json::from_value(value["lostTail"].clone()).ok();
        let forged = serde_json::from_value(value["forged"].clone()).ok();
        return Fields { epoch: value["epoch"].as_u64(), lost_tail, forged };
    }
    let (_, rest) = text.split_once("\"epoch\":").unwrap_or_default();
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    // A number that ends with the text may be cut off.
    let whole = rest.trim_start().len() > digits.len();
    Fields { epoch: digits.parse().ok().filter(|_| whole), ..Fields::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_of_a_damaged_head_is_made_out() {
        let epoch = |text: &str| fields_of(text).epoch;
        assert_eq!(epoch(r#"{"epoch":12,"floor":}"#), Some(12));
        assert_eq!(epoch(r#"{"epoch": 12}"#), Some(12));
        assert_eq!(epoch(r#"{"epoch":12"#), None);
        assert_eq!(epoch(r#"{"epoch":"#), None);
        assert_eq!(epoch(""), None);
        assert_eq!(fields_of(r#"{"epoch":3,"lostTail":[1,2]}"#).lost_tail, Some((1, 2)));
    }
}
