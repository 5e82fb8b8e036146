//! The desired state that flags and file of `venom run` describe.

use std::io::Read;
use std::path::Path;

use kube::Resource;

use super::super::Error;
use super::super::output::complain;
use super::Args;
use crate::api;
use crate::organism::pulse;
use crate::runtime::Desired;

/// What a run does.
#[derive(Clone, Debug)]
pub(super) struct RunSpec {
    /// The desired state; its `beats` follow from `until` and the ledger.
    pub(super) desired: Desired,
    /// When to stop.
    pub(super) until: Until,
}

/// When to stop beating.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// When a signal asks for it.
    Stopped,
    /// After so many more.
    More(u64),
    /// At so many since genesis.
    Total(u64),
}

impl Until {
    /// The last beat to make where `beat` have been made.
    pub(super) fn limit(self, beat: u64) -> Option<u64> {
        match self {
            Self::Stopped => None,
            Self::More(more) => Some(beat.saturating_add(more)),
            Self::Total(total) => Some(total),
        }
    }
}

/// -1, or at least 1.
pub(super) fn beats(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(beats) if beats == -1 || beats >= 1 => Ok(beats),
        _ => Err("write -1 (for ever) or a whole number of at least 1".into()),
    }
}

/// A number.
pub(super) fn finite(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "write a number, such as 0.02".into())
}

/// Combines file and flags; a flag goes before the file.
pub(super) fn read(args: &Args) -> Result<RunSpec, Error> {
    let (organism, genome) = match &args.file {
        Some(path) => from_file(path)?,
        None => Default::default(),
    };
    let mut desired = Desired::from_specs(&organism, &genome);
    let (pulse, pid) = (&mut desired.config.pulse, &mut desired.config.pid);
    for (flag, value) in [(args.k_flows, &mut pulse.k), (args.p_nodes, &mut pulse.p)] {
        *value = flag.unwrap_or(*value);
    }
    for (flag, value) in [(args.t1, &mut pulse.t1), (args.t_threshold, &mut pid.t_threshold)] {
        *value = flag.unwrap_or(*value);
    }
    pulse::t_lambda(pulse.k, pulse.p, pulse.t1, pulse.u)
        .map_err(|error| Error::Usage(format!("k = {}, P = {}: {error}", pulse.k, pulse.p)))?;
    desired.injectable = args.injectable;
    let until = match (args.beats.map(u64::try_from), organism.spec.beats_limit()) {
        (Some(Ok(more)), _) => Until::More(more),
        (Some(Err(_)), _) | (None, None) => Until::Stopped,
        (None, Some(total)) => Until::Total(total),
    };
    Ok(RunSpec { desired, until })
}

/// The Organism of a file and the Genome it names, as the API server would take them.
fn from_file(path: &Path) -> Result<(api::Organism, api::Genome), Error> {
    let shown = path.display();
    let wrong = |what: String| Error::Usage(format!("{shown}: {what}"));
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    }
    .map_err(|error| wrong(error.to_string()))?;

    let (ours, group) = (api::Organism::api_version(&()), api::Organism::group(&()));
    let (mut organisms, mut genomes) = (vec![], vec![]);
    for document in serde_yaml::Deserializer::from_str(&text) {
        let object = api::document(document).map_err(|error| wrong(error.to_string()))?;
        if object.is_null() {
            continue;
        }
        let said = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (said("apiVersion"), said("kind"));
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let wrong = |what: String| wrong(format!("{kind} {name}: {what}"));
        if version != ours {
            if version.starts_with(&*group) || version.is_empty() || kind.is_empty() {
                return Err(wrong(format!("apiVersion must be {ours}, with a kind")));
            }
            complain(&format!("{shown}: {kind} {name} means nothing here and is passed over"));
            continue;
        }
        match kind.as_str() {
            "Organism" => {
                let organism: api::Organism = api::read(object).map_err(|error| wrong(error.to_string()))?;
                api::validate::organism(&organism.spec).map_err(wrong)?;
                organisms.push(organism);
            }
            "Genome" => {
                let genome: api::Genome = api::read(object).map_err(|error| wrong(error.to_string()))?;
                api::validate::genome(&genome.spec).map_err(wrong)?;
                genomes.push(genome);
            }
            _ => return Err(wrong("there is no such kind; write Organism or Genome".into())),
        }
    }
    let [organism] = <[api::Organism; 1]>::try_from(organisms)
        .map_err(|found| wrong(format!("holds {} Organisms; venom run beats exactly one", found.len())))?;
    let genome = genome_of(&organism, genomes).map_err(wrong)?;
    Ok((organism, genome))
}

/// The Genome that `organism` refers to. Where the file lacks it, a default one is used, as in a cluster, unless the
/// Organism names it.
fn genome_of(organism: &api::Organism, genomes: Vec<api::Genome>) -> Result<api::Genome, String> {
    if organism.spec.suspend {
        return Err("spec.suspend is true; set it to false to beat".into());
    }
    let wanted = organism.genome_name().to_owned();
    let mut others = vec![];
    let mut found = None;
    for genome in genomes {
        match genome.metadata.name.clone() {
            Some(name) if name == wanted && found.is_some() => {
                return Err(format!("holds Genome {name} twice; remove one"));
            }
            Some(name) if name == wanted => found = Some(genome),
            name => others.push(name.unwrap_or_default()),
        }
    }
    match (found, others.first()) {
        (Some(genome), _) => Ok(genome),
        (None, Some(other)) => Err(format!(
            "the Organism refers to Genome {wanted}, the file holds {other}; set spec.genomeRef.name to {other}"
        )),
        (None, None) if organism.spec.genome_ref.is_some() => {
            Err(format!("the Organism refers to Genome {wanted}, which the file does not hold; add it"))
        }
        (None, None) => Ok(api::Genome::default()),
    }
}
