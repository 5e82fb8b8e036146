//! `venom run`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use venom::ledger::entry::Data;
use venom::organism::Action;

use super::{MANY_SEGMENTS, Place, data, files, kinds};

/// Prints the figures of the mission's "Validation Results", all of them computed.
#[test]
fn prints_the_figures_of_the_mission() {
    let place = Place::new();
    let out = place.ok("run --beats 200");
    for figure in [
        "Beats: 200 in ",
        "T_Λ computed: 0.004211 s",
        "PID stable: ΔT=-0.015789, ΔV=-0.015789 (ΔV < 0 ✓)",
        "ΔV ≤ 0 on 200 of the last 200 beats",
        "Entropy inference: 5 anoms → 0.6457 threat",
        "Threat: 0.5000 at 0 anoms, NOOP",
        "NOOP 200",
        "Ledger integrity: verified ✓",
        "Merkle root: ",
    ] {
        assert!(out.contains(figure), "{figure}: {out}");
    }
    let root = out.lines().find_map(|line| line.strip_prefix("Merkle root: ")).unwrap();
    let verified = place.ok("ledger verify venom-ledger");
    assert_eq!(verified, format!("verified: 1401 entries from index 0, size 1401, root {root}\n"));
    let replayed = place.ok("ledger replay venom-ledger");
    assert!(replayed.starts_with("replayed: 200 beats from entry 0"), "{replayed}");
    assert_eq!(replayed.lines().last(), Some(format!("  {:<15}{:>12}", "NOOP", 200).as_str()));

    let entries = place.entries();
    assert_eq!(entries.len(), 1401);
    assert_eq!(
        kinds(&entries[..8]).join(" "),
        "genesis pulse flow_result flow_result flow_result flow_result action evolution"
    );
}

#[test]
fn continues_with_resume_config_scale_and_snapshot() {
    let place = Place::new();
    place.ok("run --beats 20");
    let before = place.entries();
    place.ok("run --beats 10 --k-flows 6 --p-nodes 3 --t1 0.002 --t-threshold 0.01");
    let entries = place.entries();
    assert_eq!(entries[..before.len()], before);
    let new = &entries[before.len()..];
    assert_eq!(kinds(&new[..5]).join(" "), "resume config scale snapshot pulse");
    let Data::Resume(resume) = data(&new[0]) else { panic!() };
    assert_eq!((resume.epoch, serde_json::json!(resume.reason)), (2, "restart".into()));
    assert!(!resume.operator.is_empty());
    assert_eq!(&*new[1].data, r#"{"pid":{"t_threshold":0.01},"pulse":{"k":6,"t1":0.002},"type":"config"}"#);
    assert_eq!(&*new[2].data, r#"{"from":5,"p":3,"type":"scale"}"#);
    let Data::Pulse(pulse) = data(&new[4]) else { panic!() };
    assert_eq!((pulse.pulse.pulse_id, pulse.pulse.kp), (21, 18));
    place.ok("ledger verify venom-ledger");
    let replayed = place.ok("ledger replay venom-ledger");
    assert!(replayed.starts_with("replayed: 30 beats from entry 0"), "{replayed}");

    // The same flags again: only resume and snapshot are recorded.
    place.ok("run --beats 10 --k-flows 6 --p-nodes 3 --t1 0.002 --t-threshold 0.01");
    let again = place.entries();
    assert_eq!(kinds(&again[entries.len()..][..3]).join(" "), "resume snapshot pulse");
    place.ok("ledger replay venom-ledger");
}

/// Genome, pulse and number of beats come from a file. A snapshot is recorded every thousand beats.
#[test]
fn takes_an_organism_and_its_genome_from_a_file() {
    let place = Place::new();
    place.write(
        "organism.yaml",
        "
apiVersion: genesis.venom.dev/v1alpha1
kind: Genome
metadata: {name: strict}
spec: {risk: {anoms: 20}, evolution: Frozen}
---
apiVersion: v1
kind: Namespace
metadata: {name: elsewhere}
---
apiVersion: genesis.venom.dev/v1alpha1
kind: Organism
metadata: {name: venom}
spec: {genomeRef: {name: strict}, beats: 1005, pulse: {t1: 0.00005}, nodes: {replicas: 0}}
",
    );
    let done = place.venom("run -f organism.yaml");
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("Namespace elsewhere means nothing here"), "{done:?}");
    assert!(done.out.contains("QUARANTINE 1005"), "{done:?}");
    let entries = place.entries();
    let Data::Genesis(genesis) = data(&entries[0]) else { panic!() };
    assert_eq!(genesis.genome.risk.anoms, 20);
    assert_eq!(genesis.genome.risk.window, 60.0, "the schema's default");
    assert_eq!(genesis.genome.evolution, venom::organism::genome::Evolution::Frozen);
    assert_eq!(genesis.config.pulse.p, 1, "a body that is down still beats");
    let snapshots: Vec<_> = entries.iter().filter(|entry| entry.kind() == "snapshot").collect();
    assert_eq!(snapshots.len(), 1);
    let Data::Snapshot(state) = data(snapshots[0]) else { panic!() };
    assert_eq!((state.beat, state.action), (1000, Action::Quarantine));

    // All beats are made: nothing is written, unless --beats requests more.
    let done = place.venom("run -f organism.yaml");
    assert_eq!((done.code, done.out.as_str()), (Some(0), ""), "{done:?}");
    assert_eq!(place.entries().len(), entries.len());
    place.ok("run -f organism.yaml --beats 5 --p-nodes 2");
    assert_eq!(place.entries().len(), entries.len() + 3 + 5 * 7);
    place.ok("ledger replay venom-ledger");
}

#[test]
fn many_commits_become_few_segments() {
    let place = Place::new();
    place.write("many.yaml", MANY_SEGMENTS);
    let out = place.ok("run -f many.yaml --beats 600");
    assert!(out.contains("Ledger integrity: verified ✓"), "{out}");
    // At most 601 commits. At most seven segments of each level remain, and 8^4 is above 601.
    assert!(files(&place.ledger()).len() <= 2 + 4 * 7, "{:?}", files(&place.ledger()));
    place.ok("ledger replay venom-ledger");
    assert_eq!(place.entries().len(), 601 * 7 - 6);
}

/// At SIGINT and SIGTERM the current beat ends, everything is committed, and the summary is printed.
#[test]
fn stops_at_sigint_and_sigterm() {
    for signal in ["INT", "TERM"] {
        let place = Place::new();
        let child = place.command("run").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while !place.ledger().join("head.json").exists() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(100));
        let kill = std::process::Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        let done = super::Done::from(child.wait_with_output().unwrap());
        assert_eq!(done.code, Some(0), "{done:?}");
        assert!(done.out.contains("Ledger integrity: verified ✓"), "{done:?}");
        place.ok("ledger replay venom-ledger");
    }
}

#[test]
fn a_folder_has_one_writer_at_a_time() {
    let place = Place::new();
    place.ok("run --beats 3");
    let mut child = place.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let entries = place.entries().len();
    let until = Instant::now() + Duration::from_secs(60);
    while place.entries().len() == entries && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let told = place.fails("run --beats 1", 1);
    assert!(told.contains("in use by another venom process"), "{told}");
    // A folder verifies while it is written.
    place.ok("ledger verify venom-ledger");
    child.kill().unwrap();
    child.wait().unwrap();
    place.ok("run --beats 1");
    place.ok("ledger replay venom-ledger");
}

/// An invalid file is rejected before any file is created.
#[test]
fn rejects_what_the_api_server_would_reject() {
    let organism = "apiVersion: genesis.venom.dev/v1alpha1\nkind: Organism\nmetadata: {name: venom}\n";
    let genome = "---\napiVersion: genesis.venom.dev/v1alpha1\nkind: Genome\nmetadata: {name: NAME}\n";
    let genome_named = |name: &str| genome.replace("NAME", name);
    for (text, told) in [
        (format!("{organism}spec: {{pulse: {{minperiod: 1s}}}}"), "unknown field spec.pulse.minperiod"),
        (format!("{organism}spec: {{pulse: {{u: 1}}}}"), "spec.pulse.u must be above 1"),
        (format!("{organism}spec: {{pulse: {{k: 1}}, nodes: {{replicas: 1}}}}"), "k·P must be above 1"),
        (format!("{organism}spec: {{beats: 0}}"), "spec.beats must be -1"),
        (format!("{organism}spec: {{suspend: true}}"), "spec.suspend is true"),
        (format!("{organism}spec: {{genomeRef: {{name: other}}}}"), "refers to Genome other"),
        (format!("{organism}{}", genome_named("other")), "set spec.genomeRef.name to other"),
        (format!("{organism}---\n{organism}"), "holds 2 Organisms"),
        (genome_named("venom"), "holds 0 Organisms"),
        (
            format!("{organism}{}spec: {{weights: {{regen: 0.5}}}}", genome_named("venom")),
            "spec.weights must sum to 1",
        ),
        (organism.replace("v1alpha1", "v2"), "apiVersion must be genesis.venom.dev/v1alpha1"),
        ("{".into(), "organism.yaml: "),
    ] {
        let place = Place::new();
        place.write("organism.yaml", &text);
        let line = place.fails("run --beats 1 -f organism.yaml", 2);
        assert!(line.contains(told), "{told}: {line}");
        assert!(!place.ledger().exists());
    }
}

#[test]
fn the_examples_run() {
    for example in ["organism", "adaptive"] {
        let place = Place::new();
        let path = format!("{}/examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"));
        place.ok(&format!("run --beats 1 -f {path}"));
        place.ok("ledger replay venom-ledger");
    }
}
