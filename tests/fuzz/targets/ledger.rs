//! The ledger as it is stored and exported: canonical JSON, segments, heads, JSON lines.

use std::io::Write;
use std::str::from_utf8;

use serde_json::Value;
use venom::cli::ledger::verify;
use venom::cli::source::Lines;
use venom::ledger::canonical::{self, MAX_DEPTH};
use venom::ledger::merkle::MAX_SIZE;
use venom::ledger::sealed::{HexHash, MergeError, SealError};
use venom::ledger::segment::{self, DecodeError, EncodeError, MAX_ENTRY_BYTES, Row};
use venom::ledger::{Chain, Entry, SealedSegment};
use venom::store::{Head, HeadError};

use super::Target;

pub const TARGETS: [Target; 5] =
    [("canonical", canonical), ("columns", columns), ("segment", segment), ("head", head), ("lines", lines)];

/// Most entries of a segment here: each costs a hash, whatever the size of the input.
const MOST_ENTRIES: u64 = 255;

/// A text is canonical if and only if it is what our writer makes of the value that serde_json reads. The scanner finds the
/// scalars of that value, in its order.
fn canonical(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let value = serde_json::from_str::<Value>(text).ok();
    let value = value.filter(|it| depth(it) <= MAX_DEPTH && canonical::to_string(it).as_deref() == Ok(text));
    let mut scalars = vec![];
    let scanned = canonical::scalars(text, |range, _| scalars.push(&text[range]));
    assert_eq!(scanned.is_ok(), value.is_some(), "{scanned:?}");
    let Some(value) = value else { return false };
    assert_eq!(canonical::parse(text).as_ref(), Ok(&value));
    let mut leaves = vec![];
    collect_leaves(&value, &mut leaves);
    assert_eq!(scalars, leaves);
    true
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or_default(),
        _ => 0,
    }
}

fn collect_leaves(value: &Value, leaves: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|it| collect_leaves(it, leaves)),
        Value::Object(fields) => fields.values().for_each(|it| collect_leaves(it, leaves)),
        scalar => leaves.push(canonical::to_string(scalar).unwrap()),
    }
}

type Rows = Vec<(f64, String)>;

fn decode(bytes: &[u8], count: u64, columns: u64) -> Result<Rows, DecodeError> {
    let mut rows = vec![];
    segment::visit(bytes, count, columns, |timestamp, data| {
        rows.push((timestamp, data.to_owned()));
        Ok::<(), DecodeError>(())
    })?;
    Ok(rows)
}

/// A segment whose frame holds `columns` as they are: a raw block of zstd (RFC 8878).
pub fn frame(columns: &[u8]) -> Vec<u8> {
    // A single segment, whose size follows in four bytes; then the last block, which is raw.
    let mut frame = vec![segment::VERSION, 0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend((columns.len() as u32).to_le_bytes());
    frame.extend(&((columns.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend(columns);
    frame
}

/// The number of entries in one byte, and the columns of a segment before compression. What decodes is within the limits
/// of the format, and encodes to a segment that decodes to the same.
fn columns(input: &[u8]) -> bool {
    let Some((&count, columns)) = input.split_first() else { return false };
    if columns.len() > 1 << 16 {
        return false;
    }
    let Ok(rows) = decode(&frame(columns), count.into(), columns.len() as u64) else { return false };
    assert_eq!(rows.len(), usize::from(count));
    for (timestamp, data) in &rows {
        assert!(timestamp.is_finite() && data.len() <= MAX_ENTRY_BYTES);
        assert_eq!(canonical::check(data), Ok(()));
    }
    let rows_of: Vec<Row<'_>> =
        rows.iter().map(|(timestamp, data)| Row { timestamp: *timestamp, data }).collect();
    match segment::encode(&rows_of) {
        Ok(encoded) => {
            let again = decode(&encoded.bytes, count.into(), encoded.columns).unwrap();
            let bits = |rows: &Rows| -> Vec<u64> { rows.iter().map(|it| it.0.to_bits()).collect() };
            assert_eq!((bits(&again), &again), (bits(&rows), &rows));
        }
        // The encoder's own limits are narrower.
        Err(EncodeError::TooLarge { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    true
}

/// A segment as a folder has it: the line of its head, and its entries. Its hashes are made to fit, as a forger does. What
/// verifies has indices of the format, and merges into a segment with the same entries, if it is not too large.
fn segment(input: &[u8]) -> bool {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return false };
    let Ok(head) = from_utf8(&input[..end]) else { return false };
    let Ok(mut sealed) = SealedSegment::from_parts(head, input[end + 1..].to_vec()) else { return false };
    let again = SealedSegment::from_parts(&sealed.head_text().unwrap(), sealed.entries.clone());
    assert_eq!(again.unwrap(), sealed);
    if sealed.head.count > MOST_ENTRIES {
        return false;
    }
    let last = entries(&sealed).0.last().map(|it| it.hash);
    sealed.head.last_hash = last.map_or(sealed.head.last_hash, HexHash);
    let (entries_found, Ok(end)) = entries(&sealed) else { return false };
    assert_eq!(end.size(), sealed.head.first + sealed.head.count);
    assert!(end.size() <= MAX_SIZE, "{} entries", end.size());
    let middle = sealed.head.first + sealed.head.count / 2;
    let (after, at_size) = sealed.verify(Some(middle)).unwrap();
    assert_eq!((after, at_size.unwrap().size()), (end.clone(), middle));
    for entry in entries_found.iter().filter(|it| it.data.starts_with('{')) {
        assert_eq!(Entry::from_line(&entry.to_line()).as_ref(), Ok(entry));
    }
    match SealedSegment::merge(None, &[sealed]) {
        Ok(merged) => assert_eq!(entries(&merged), (entries_found, Ok(end))),
        Err(MergeError::Seal(SealError::Encode(EncodeError::TooLarge { .. }))) => {}
        Err(error) => panic!("{error}"),
    }
    true
}

/// The entries of a segment, and the end of its chain if they verify.
fn entries(sealed: &SealedSegment) -> (Vec<Entry>, Result<Chain, ()>) {
    let mut entries = vec![];
    let end = sealed.visit(|entry| {
        entries.push(entry);
        Ok::<(), ()>(())
    });
    (entries, end.map_err(drop))
}

/// The head of a ledger. What is parsed has texts of bounded length and places within the ledger, reads back as it was
/// written, and with a field more it is of a newer version.
fn head(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let head = match Head::parse(text) {
        Ok(head) => head,
        Err(error) => {
            // Only JSON can be of a newer version.
            assert!(matches!(error, HeadError::Invalid(_)) || serde_json::from_str::<Value>(text).is_ok());
            return false;
        }
    };
    let mut written = serde_json::to_value(&head).unwrap();
    assert_eq!(Head::parse(&written.to_string()).as_ref(), Ok(&head));
    let texts = head.enforcement.iter().flat_map(|it| [Some(&it.mode), it.refused.as_ref()]).flatten();
    let texts = texts.chain([&head.holder, &head.uid]).chain(head.segments.iter().map(|it| &it.object));
    assert!(texts.map(String::len).all(|length| length <= 512));
    let places = [head.last_injection, head.last_sense].into_iter().flatten().map(|it| it.0);
    assert!(places.chain(head.enforcement.iter().map(|it| it.entry)).all(|entry| entry < head.size));
    assert!(head.chain().is_none_or(|chain| chain.size() == head.size));
    written["zz"] = Value::Null;
    assert!(matches!(Head::parse(&written.to_string()), Err(HeadError::Newer(_))));
    true
}

/// The findings of `venom ledger verify FILE` about a file of these lines, and how many entries it counts.
fn verified(lines: &[u8]) -> (Vec<String>, u64) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(lines).unwrap();
    let report = verify::lines(&mut Lines::file(file.path()).unwrap(), &verify::Expected::default()).unwrap();
    (report.findings, report.size.saturating_sub(report.floor))
}

/// JSON lines. A file without findings is the one text of its entries. A forger can make the hashes of any entries fit;
/// those then verify, and each of them can be stored.
fn lines(input: &[u8]) -> bool {
    let split = input.split(|byte| *byte == b'\n');
    let mut entries: Vec<Entry> =
        split.filter_map(|line| Entry::from_line(from_utf8(line).ok()?).ok()).collect();
    let text = |entries: &[Entry]| entries.iter().map(|it| it.to_line() + "\n").collect::<String>();
    let (findings, count) = verified(input);
    if findings.is_empty() {
        assert_eq!(count, entries.len() as u64);
        assert_eq!(
            input.strip_suffix(b"\n").unwrap_or(input),
            text(&entries).trim_end_matches('\n').as_bytes()
        );
    }
    let Some(first) = entries.first().map(|it| it.index) else { return false };
    let (mut index, mut previous_hash) = (first, entries[0].previous_hash);
    for entry in &mut entries {
        (entry.index, entry.previous_hash) = (index, previous_hash);
        entry.hash = entry.compute_hash(&mut vec![]);
        (index, previous_hash) = (index.saturating_add(1), entry.hash);
        assert_eq!(canonical::check(&entry.data), Ok(()));
    }
    let (forged, count) = verified(text(&entries).as_bytes());
    if index <= MAX_SIZE && (first > 0 || previous_hash_of_genesis(&entries)) {
        assert_eq!((forged, count), (vec![], entries.len() as u64));
    } else {
        assert!(!forged.is_empty());
    }
    findings.is_empty()
}

/// Entry 0 has no entry before it.
fn previous_hash_of_genesis(entries: &[Entry]) -> bool {
    entries[0].previous_hash == [0; 32]
}
