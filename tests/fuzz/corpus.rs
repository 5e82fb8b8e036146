//! The corpus: small inputs, made from the golden vectors, from what our encoders write, and from the examples.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use serde_json::{Value, json};
use tokio_util::codec::Encoder;
use venom::ledger::entry::{Origin, Record};
use venom::ledger::segment::{self, Row};
use venom::ledger::{Chain, Entry, SealedSegment, canonical};
use venom::mesh::identity::generate_key_and_csr;
use venom::mesh::wire::{self, Hello, Message, SettledEvent, WireEvent};
use venom::mesh::{Identity, InjectionPayload, Outcome};
use venom::organism::Action;
use venom::store::head::{Contents, LastEnforcement, SegmentRef};
use venom::store::{Head, rebuild::Published};

/// How the corpus is written.
pub const HOW: &str = "`cargo test --test fuzz -- --ignored`";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The inputs of a target, in the order of their names.
pub fn read(target: &str) -> Vec<Vec<u8>> {
    let folder = root().join("tests/fuzz/corpus").join(target);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Adds what is missing: files that are there stay as they are. To follow a new format, delete its folder first.
#[test]
#[ignore = "writes the corpus"]
fn write() {
    let targets = [
        ("canonical", canonical_texts()),
        ("columns", columns()),
        ("segment", segments()),
        ("head", heads()),
        ("lines", lines()),
        ("frames", frames()),
        ("injection", injections()),
        ("certificate_request", certificate_requests()),
        (
            "duration",
            texts(&[
                "0s",
                "500ms",
                "1.5s",
                "1h30m",
                "24h0m0.25s",
                "12us7ns",
                "12µs",
                "0.33333333333333333333h",
            ]),
        ),
        (
            "byte_size",
            texts(&["0", "262144", "4Mi", "256Ki", "1Gi", "5k", "1M", "2G", "18446744073709551615"]),
        ),
        ("identity", texts(&["spiffe://venom/operator", "spiffe://a.example/org/1f-2/pod/node-1"])),
        ("issuer_url", issuer_urls()),
        ("manifest", manifests()),
    ];
    for (target, inputs) in targets {
        let folder = root().join("tests/fuzz/corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, input) in inputs {
            let path = folder.join(name);
            if !path.exists() {
                fs::write(path, input).unwrap();
            }
        }
    }
}

type Inputs = Vec<(String, Vec<u8>)>;

fn texts(texts: &[&str]) -> Inputs {
    (1..).zip(texts).map(|(number, text)| (format!("{number}"), text.as_bytes().to_vec())).collect()
}

/// The golden ledger.
fn golden() -> Vec<Entry> {
    let text = fs::read_to_string(root().join("tests/vectors/ledger.jsonl")).unwrap();
    text.lines().map(|line| Entry::from_line(line).unwrap()).collect()
}

/// Parts of the golden ledger: its first beats, and one with every kind of input.
fn parts(golden: &[Entry]) -> [(&'static str, std::ops::Range<usize>); 3] {
    let sense = golden.iter().position(|it| it.kind() == "sense").unwrap();
    [("empty", 0..0), ("beats", 0..15), ("inputs", sense..sense + 60)]
}

fn canonical_texts() -> Inputs {
    let mut kinds = BTreeMap::new();
    for entry in golden() {
        kinds.entry(entry.kind()).or_insert(entry.data.as_bytes().to_vec());
    }
    let vectors = fs::read(root().join("tests/vectors/canonical.json")).unwrap();
    let vectors: Value = serde_json::from_slice(&vectors).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    for (number, cases) in (1..).zip(cases.chunks(20)) {
        let values: Vec<_> = cases.iter().map(|case| &case["value"]).collect();
        kinds.insert(format!("vectors-{number}"), canonical::to_string(&values).unwrap().into());
    }
    kinds.into_iter().collect()
}

fn columns() -> Inputs {
    const DICTIONARY: &[u8] = include_bytes!("../../src/ledger/segment/dictionary.bin");
    let golden = golden();
    let columns = |range: std::ops::Range<usize>| {
        let count = range.len() as u8;
        let rows: Vec<Row<'_>> =
            golden[range].iter().map(|it| Row { timestamp: it.timestamp, data: &it.data }).collect();
        let encoded = segment::encode(&rows).unwrap();
        let mut zstd = zstd::bulk::Decompressor::with_dictionary(DICTIONARY).unwrap();
        let columns = zstd.decompress(&encoded.bytes[1..], encoded.columns as usize).unwrap();
        [&[count][..], &columns].concat()
    };
    parts(&golden).into_iter().map(|(name, range)| (name.into(), columns(range))).collect()
}

/// A part of the golden ledger, sealed, and the chain after it.
fn sealed(golden: &[Entry], range: std::ops::Range<usize>) -> (SealedSegment, Chain) {
    let mut before = Chain::default();
    golden[..range.start].iter().for_each(|it| before.verify_next(it).unwrap());
    let records: Vec<Record> =
        golden[range].iter().map(|it| Record::Other(it.timestamp, it.data.clone())).collect();
    let mut after = before.clone();
    for record in &records {
        after.record(record).unwrap();
    }
    let origin =
        Origin { generation: 1, name: "venom".into(), namespace: "default".into(), uid: "6f1e".into() };
    (SealedSegment::seal(Some(&origin), &before, &after, &records).unwrap(), after)
}

fn segments() -> Inputs {
    let golden = golden();
    let file = |range| {
        let (sealed, _) = sealed(&golden, range);
        [sealed.head_text().unwrap().as_bytes(), b"\n", &sealed.entries].concat()
    };
    parts(&golden).into_iter().map(|(name, range)| (name.into(), file(range))).collect()
}

fn heads() -> Inputs {
    let empty = Head::empty("6f1e0c9a-7b1d-4a53-9a51-2f0c7b9f1f01", 1, 1, "operator-1");
    let golden = golden();
    let mut full = empty.clone();
    for at in [0, 15, 75] {
        let (sealed, after) = sealed(&golden, at..at + if at == 0 { 15 } else { 60 });
        let enforcement = LastEnforcement {
            action: Action::Quarantine,
            change: venom::ledger::entry::Change::Apply,
            entry: at as u64,
            mode: "Enforce".into(),
            refused: None,
            utilization: None,
        };
        full.append(
            SegmentRef::new(&sealed, 1, format!("uid-{at}"), 0),
            &after,
            Contents {
                injections: vec![(at as u64, 1_782_000_000.5)],
                senses: vec![(at as u64 + 1, 1_782_000_001.0)],
                enforcement: Some(enforcement),
            },
        );
    }
    let mut lost = full.clone();
    lost.lost_tail = Some((3, 9));
    let published = Published { generation: 1, size: 9, root: [1; 32], last_hash: [2; 32] };
    lost.forged = Some(venom::store::head::Forged::new(1, "another root".into(), &published));
    let mut pruned = full.clone();
    pruned.prune(1);
    let heads = [("empty", empty), ("full", full), ("lost", lost), ("pruned", pruned)];
    heads.map(|(name, head)| (name.into(), serde_json::to_vec(&head).unwrap())).into()
}

fn lines() -> Inputs {
    let golden = golden();
    let text = |range: std::ops::Range<usize>| {
        golden[range].iter().map(|it| it.to_line() + "\n").collect::<String>().into_bytes()
    };
    vec![("beat".into(), text(0..8)), ("middle".into(), text(300..304))]
}

fn frames() -> Inputs {
    let node = Identity::pod("venom", "6f1e0c9a", "node-1").unwrap();
    let event = |number: u64, payload| WireEvent {
        id: format!("0198f3c2-0000-7000-8000-00000000000{number}").parse().unwrap(),
        origin: (number > 1).then(|| node.clone()),
        seq: number,
        age: 1_000 * number,
        payload,
    };
    let events = vec![
        event(1, InjectionPayload { anoms: Some(5), ml_weight: None }),
        event(2, InjectionPayload { anoms: None, ml_weight: Some(0.25) }),
        event(3, InjectionPayload { anoms: Some(0), ml_weight: Some(1e-2) }),
    ];
    let outcomes = [Outcome::Committed { entry: 7 }, Outcome::Refused { reason: "not\tnow".into() }];
    let settled =
        events.iter().cloned().zip(outcomes).map(|(event, outcome)| SettledEvent { event, outcome });
    let messages = [
        ("hello", vec![Message::Hello(Hello { version: 1, instance: 42, port: Some(7001) }), Message::Ping]),
        ("settled", vec![Message::Settled(settled.collect())]),
        ("events", vec![Message::Events(events), Message::Ping]),
    ];
    let stream = |messages: Vec<Message>| {
        let mut stream = BytesMut::new();
        messages.iter().for_each(|it| wire::codec().encode(it.encode(), &mut stream).unwrap());
        stream.to_vec()
    };
    messages.map(|(name, messages)| (name.into(), stream(messages))).into()
}

fn json_files<const N: usize>(values: [(&str, Value); N]) -> Inputs {
    values.map(|(name, value)| (name.into(), value.to_string().into_bytes())).into()
}

fn injections() -> Inputs {
    let id = "0198f3c2-0000-7000-8000-000000000001";
    json_files([
        ("anoms", json!({"id": id, "anoms": 5})),
        ("both", json!({"id": "mine-1", "anoms": 1_000_000, "mlWeight": 0.01})),
        ("generated", json!({"mlWeight": 1})),
    ])
}

fn certificate_requests() -> Inputs {
    json_files([("request", json!({"csr": generate_key_and_csr().unwrap().1}))])
}

fn issuer_urls() -> Inputs {
    texts(&[
        "https://venom.venom-system.svc:8443/v1/certificates",
        "https://127.0.0.1:1/v1/certificates",
        "https://[::1]:8443/v1/certificates",
    ])
}

fn manifests() -> Inputs {
    let mut inputs = vec![];
    for name in ["organism", "adaptive"] {
        let text = fs::read_to_string(root().join(format!("examples/{name}.yaml"))).unwrap();
        for (number, document) in (1..).zip(serde_yaml::Deserializer::from_str(&text)) {
            let value = venom::api::document(document).unwrap();
            inputs.push((format!("{name}-{number}"), value.to_string().into_bytes()));
        }
    }
    let spec = json!({
        "nodes": {"replicas": 3, "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"cpu": 1}}},
        "ledger": {"commitInterval": "1s", "retain": {"bytes": "4Mi"}},
        "sensing": {"prometheus": [{"name": "errors", "query": "up", "interval": "15s", "above": 1.5}]},
    });
    inputs.extend(json_files([
        ("genome", json!({"kind": "Genome", "metadata": {"name": "g"}, "spec": {"risk": {"anoms": 3, "window": "12s"}}})),
        ("nodes", json!({"kind": "Organism", "metadata": {"name": "o"}, "spec": spec})),
    ]));
    inputs
}
