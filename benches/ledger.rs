//! Times of a beat, of verification and of canonical JSON relative to the hashing that they include, and the size of a
//! beat in a segment.
//!
//! Run with `cargo bench --bench ledger`. Every ratio is the median of several pairs that are measured alternately: the
//! speed of a machine drifts, a ratio hardly does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use sha3::{Digest, Sha3_256};
use venom::ledger::entry::{Genesis, Record};
use venom::ledger::replay::Replay;
use venom::ledger::{Chain, Entry, SealedSegment, canonical, merkle};
use venom::organism::cores::Cores;
use venom::organism::input::{Input, Resume, ResumeReason};
use venom::organism::{Config, Genome, State, VERSION, beat};

const BEATS: usize = 20_000;
const PAIRS: usize = 7;

fn main() {
    // `cargo test --benches` passes --test: do not measure then.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    println!("{BEATS} beats, medians of {PAIRS} pairs\n");
    let beats = make_records(BEATS, 0.004_21, 0.000_05);
    let entries = entries(&beats);
    let texts: usize = entries.iter().map(|entry| entry.data.len()).sum();
    println!("text of an entry           {:>9.0} bytes", texts as f64 / entries.len() as f64);

    let engine = median(|| time(|| drop(black_box(make_records(BEATS, 0.004_21, 0.0)))));
    println!("engine alone               {:>9.0} beats/s", BEATS as f64 / engine.as_secs_f64());

    ratio("beat + ledger : its hashing", || time(|| append(&beats)), || time(|| hash(&entries)));
    ratio("verify : its hashing", || time(|| verify(&entries)), || time(|| hash(&entries)));
    ratio("canonical JSON : its hashing", || time(|| print(&beats)), || time(|| hash(&entries)));
    ratio("replay : its hashing", || time(|| replay(&entries)), || time(|| hash(&entries)));

    println!();
    for (pace, period, jitter, sizes) in
        [("T_Λ", 0.004_21, 0.000_05, [237, 1_900]), ("1 Hz", 1.0, 0.000_3, [20, 60])]
    {
        for size in sizes {
            segment(pace, size, period, jitter);
        }
    }
}

/// Creates the records of an organism without anomalies, with deterministic jitter.
fn make_records(beats: usize, period: f64, jitter: f64) -> Vec<Record> {
    let started = 1_782_000_000.25;
    let genesis = Genesis {
        config: Config::default(),
        continues: None,
        genome: Genome::default(),
        message: "bench".into(),
        origin: None,
        version: VERSION.into(),
    };
    let mut state = State::genesis(VERSION, started, genesis.genome, genesis.config);
    let mut records = vec![Record::genesis(started, &genesis).unwrap_or_else(|error| panic!("{error}"))];
    let mut noise = 1_u64;
    for at in 0..beats {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let late = (noise >> 40) as f64 / (1 << 24) as f64 * jitter;
        let now = started + period * (at + 1) as f64 + late;
        let beat = beat::beat(&mut state, now, &Cores::default()).unwrap_or_else(|error| panic!("{error}"));
        records.push(Record::Beat(Box::new(beat)));
        if at % 1_000 == 999 {
            records.push(Record::snapshot(now, &state).unwrap_or_else(|error| panic!("{error}")));
        }
    }
    records
}

fn entries(records: &[Record]) -> Vec<Entry> {
    let mut chain = Chain::default();
    let mut entries = Vec::new();
    let mut scratch = Vec::new();
    for record in records {
        let written = record.write(&mut scratch, &mut |timestamp, data| {
            let (index, previous_hash) = (chain.size(), *chain.last_hash());
            let hash = chain.append(timestamp, data);
            entries.push(Entry { index, timestamp, data: data.into(), previous_hash, hash });
        });
        written.unwrap_or_else(|error| panic!("{error}"));
    }
    entries
}

/// The hashing alone: per entry its preimage, its leaf and one inner node.
fn hash(entries: &[Entry]) {
    let mut text = Vec::new();
    for entry in entries {
        text.clear();
        text.extend_from_slice(entry.data.as_bytes());
        // The size of index, previous hash, timestamp and the keys.
        text.extend_from_slice(&[b'x'; 140]);
        let hash = Sha3_256::digest(&text).into();
        let leaf = merkle::leaf_hash(&hash);
        black_box(merkle::node_hash(&leaf, &hash));
    }
}

fn append(records: &[Record]) {
    let mut state = None;
    let mut chain = Chain::default();
    for record in records {
        let _ = black_box(chain.record(record));
        // Includes the engine, so that the ratio is that of a complete beat.
        let state = state.get_or_insert_with(|| {
            let mut state = State::genesis(VERSION, 1_782_000_000.0, Genome::default(), Config::default());
            let resume = Resume { epoch: 1, operator: String::new(), reason: ResumeReason::Restart };
            let _ = state.apply(&Input::Resume(resume));
            state
        });
        let now = 1_782_000_000.0 + state.beat as f64 * 0.004_21;
        let _ = black_box(beat::beat(state, now, &Cores::default()));
    }
}

fn verify(entries: &[Entry]) {
    let mut chain = Chain::default();
    for entry in entries {
        chain.verify_next(entry).unwrap_or_else(|error| panic!("{error}"));
    }
    black_box(chain.tree().root());
}

fn print(records: &[Record]) {
    let mut scratch = Vec::new();
    for record in records {
        let _ = record.write(&mut scratch, &mut |_, data| {
            black_box(data);
        });
    }
    let mut out = Vec::new();
    canonical::push_f64(&mut out, 0.1);
    black_box(out);
}

fn replay(entries: &[Entry]) {
    let mut replay = Replay::default();
    for entry in entries {
        replay.feed(entry.clone()).unwrap_or_else(|error| panic!("{error}"));
    }
    black_box(replay.beats());
}

/// Prints the bytes per beat in a segment of `size` beats from the middle of a long run, and the size of a segment of
/// one beat.
fn segment(pace: &str, size: usize, period: f64, jitter: f64) {
    let records = make_records(3_000 + size, period, jitter);
    let mut before = Chain::default();
    for record in &records[..3_001] {
        let _ = before.record(record);
    }
    let run: Vec<Record> = records[3_001..]
        .iter()
        .filter(|record| matches!(record, Record::Beat(_)))
        .take(size)
        .cloned()
        .collect();
    let after = |run: &[Record]| {
        let mut chain = before.clone();
        for record in run {
            let _ = chain.record(record);
        }
        chain
    };
    let seal = |run: &[Record], after: &Chain| {
        SealedSegment::seal(None, &before, after, run).unwrap_or_else(|error| panic!("{error}"))
    };
    let end = after(&run);
    let (sealed, one) = (seal(&run, &end), seal(&run[..1], &after(&run[..1])));
    let seal = median(|| time(|| drop(black_box(seal(&run, &end)))));
    let open = median(|| time(|| drop(black_box(sealed.verify(None)))));
    println!(
        "segment of {size:>5} beats, {pace:<5} {:>6.1} bytes per beat, {:>5} for one beat alone, sealed in {:>7.0} µs, opened in {:>7.0} µs",
        sealed.entries.len() as f64 / size as f64,
        one.entries.len() + one.head_text().map_or(0, |text| text.len()),
        seal.as_secs_f64() * 1e6,
        open.as_secs_f64() * 1e6,
    );
}

fn time(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn median(mut sample: impl FnMut() -> Duration) -> Duration {
    let mut samples: Vec<Duration> = (0..PAIRS).map(|_| sample()).collect();
    samples.sort();
    samples[PAIRS / 2]
}

fn ratio(what: &str, mut one: impl FnMut() -> Duration, mut other: impl FnMut() -> Duration) {
    let mut ratios: Vec<f64> = (0..PAIRS).map(|_| one().as_secs_f64() / other().as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    println!("{what:<30} {:>6.2}   ({:.2} to {:.2})", ratios[PAIRS / 2], ratios[0], ratios[PAIRS - 1]);
}
