//! Small inputs that expand to very large ones.

use venom::ledger::merkle::Tree;
use venom::ledger::sealed::{HexHash, MergeError, OpenError, SealError, SegmentHead};
use venom::ledger::segment::{DecodeError, MAX_ENTRY_BYTES, VERSION};
use venom::ledger::{Chain, Entry, SealedSegment};

use crate::memory::{alone, bounded};
use crate::seal;

/// The dictionary of the format, as a forger has it too.
const DICTIONARY: &[u8] = include_bytes!("../../src/ledger/segment/dictionary.bin");

fn block(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

/// A segment whose frame holds these columns.
fn forge(columns: &[u8], first: u64, count: u64) -> SealedSegment {
    let mut zstd = zstd::bulk::Compressor::with_dictionary(3, DICTIONARY).unwrap();
    zstd.set_parameter(zstd::zstd_safe::CParameter::WindowLog(20)).unwrap();
    let mut entries = vec![VERSION];
    entries.extend(zstd.compress(columns).unwrap());
    let peaks = vec![HexHash::default(); first.count_ones() as usize];
    let head = SegmentHead {
        columns: columns.len() as u64,
        count,
        first,
        format: 1,
        last_hash: HexHash::default(),
        origin: None,
        peaks,
        previous_hash: HexHash::default(),
        start: None,
    };
    SealedSegment { head, entries }
}

/// Columns with one schema line, which every row repeats.
fn one_schema(line: &str, fields: usize) -> Vec<u8> {
    let mut columns = vec![];
    block(&mut columns, line.as_bytes());
    // No exceptions, no further strings, a plan without steps.
    columns.extend([0, 0, 1, 0]);
    // Schema 1 first, and the same again from then on.
    block(&mut columns, &[2, 2]);
    columns.extend(std::iter::repeat_n(0, fields + 1));
    columns
}

#[test]
fn one_entry_of_16_mib_is_refused() {
    let _alone = alone();
    let line = format!("1.0 \"{}\"\n", "a".repeat(15 << 20));
    let bomb = forge(&one_schema(&line, 1), 0, 1);
    assert!(bomb.entries.len() < 4_000, "{} bytes", bomb.entries.len());
    let error = bounded("a segment with one entry of 15 MiB", || bomb.verify(None).unwrap_err());
    assert!(matches!(error, OpenError::Decode(DecodeError::TooLarge { .. })), "{error}");

    // Deeply nested, and with as many values as there is room for.
    for text in [
        format!("{}{}", "[".repeat(7 << 20), "]".repeat(7 << 20)),
        format!("[{}0]", "0,".repeat(7 << 20)),
        format!("{{\"type\":[{}0]}}", "[],".repeat(4 << 20)),
    ] {
        let bomb = forge(&one_schema(&format!("1.0 {text}\n"), 1), 0, 1);
        bounded("a segment with one wide entry", || bomb.verify(None).unwrap_err());
    }
}

#[test]
fn the_largest_entries_are_parsed_in_bounded_memory() {
    let _alone = alone();
    let body = "0,".repeat((MAX_ENTRY_BYTES - 200) / 2);
    for kind in ["snapshot", "genesis", "config", "flow_result", "action", "unknown"] {
        let data = format!("{{\"a\":[{body}0],\"type\":\"{kind}\"}}");
        let (sealed, _) = seal(&Chain::default(), &[(1.0, data)]);
        bounded(kind, || {
            let parse = |entry: Entry| -> Result<(), ()> {
                let _ = entry.data();
                let line = entry.to_line();
                assert_eq!(Entry::from_line(&line).unwrap(), entry);
                Ok(())
            };
            sealed.visit(parse).unwrap();
        });
    }
}

#[test]
fn small_segments_that_expand_are_not_merged() {
    let _alone = alone();
    // 255 rows of 256 KiB each: 64 MiB from a few hundred bytes, eight times.
    let line = format!("1.0 \"{}\"\n", "a".repeat(MAX_ENTRY_BYTES - 2));
    let columns = one_schema(&line, 1);
    let count = 255;
    let parts: Vec<SealedSegment> = (0..8).map(|at| forge(&columns, at * count, count)).collect();
    assert!(parts.iter().all(|it| it.entries.len() < 1_000), "{} bytes", parts[0].entries.len());
    let error = bounded("a merge of bombs", || SealedSegment::merge(None, &parts).unwrap_err());
    assert!(matches!(error, MergeError::Seal(SealError::Encode(_))), "{error}");
    bounded("one of them", || parts[0].verify(None).unwrap_err());

    // What their heads declare is added up first.
    let declared =
        SealedSegment { head: SegmentHead { count: 1 << 17, ..parts[0].head.clone() }, ..parts[0].clone() };
    let error = SealedSegment::merge(None, &vec![declared; 8]).unwrap_err();
    assert!(error.to_string().contains("entries"), "{error}");
}

/// Valid segments whose entries have nothing in common: each of them costs its own schema.
#[test]
fn entries_without_a_common_schema_are_merged_in_bounded_memory_or_not_at_all() {
    let _alone = alone();
    let mut before = Chain::default();
    let mut parts = vec![];
    for part in 0..8_usize {
        let entries: Vec<(f64, String)> = (0..900)
            .map(|row| {
                let key = format!("{part}k{row}");
                (1.0, format!("{{\"{key}\":[{}0]}}", "0,".repeat(30 + row % 7)))
            })
            .collect();
        let (sealed, after) = seal(&before, &entries);
        parts.push(sealed);
        before = after;
    }
    let merged = bounded("a merge of 7,200 schemas", || SealedSegment::merge(None, &parts));
    drop(merged);

    let mut before = Chain::default();
    let mut parts = vec![];
    for part in 0..8_u64 {
        let text = |row: u64| format!("{:016x}", (part << 32 | row).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let entries: Vec<(f64, String)> = (0..6_000)
            .map(|row| {
                (
                    1.0,
                    format!(
                        "[{}]",
                        (0..12)
                            .map(|at| format!("\"{}\"", text(row * 12 + at)))
                            .collect::<Vec<_>>()
                            .join(",")
                    ),
                )
            })
            .collect();
        let (sealed, after) = seal(&before, &entries);
        parts.push(sealed);
        before = after;
    }
    let merged = bounded("a merge of 576,000 strings", || SealedSegment::merge(None, &parts));
    assert!(merged.is_err(), "more strings than a segment may have");
}

#[test]
fn a_forged_chain_of_peaks_costs_nothing() {
    let _alone = alone();
    let size = (1_u64 << 53) - 1;
    let bomb = forge(&one_schema("1.0 0\n", 1), size - 1, 1);
    assert!(Tree::from_peaks(size, vec![[0; 32]; 53]).is_some());
    assert!(bomb.verify(Some(size)).is_err());
    // An entry for which no tree has a place.
    let beyond = forge(&one_schema("1.0 0\n", 1), size, 1);
    assert!(matches!(beyond.verify(None), Err(OpenError::Head(_))));
}
