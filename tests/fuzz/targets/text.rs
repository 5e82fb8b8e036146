//! Short texts, and the objects of which they are fields.

use std::str::from_utf8;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use venom::api::{self, ByteSize, Genome, GoDuration, Organism, validate};
use venom::mesh::Identity;
use venom::operator::issuer::url::{PATH, Url};
use venom::organism::pulse::t_lambda;
use venom::runtime::Desired;

use super::Target;

pub const TARGETS: [Target; 5] = [
    ("duration", duration),
    ("byte_size", byte_size),
    ("identity", identity),
    ("issuer_url", issuer_url),
    ("manifest", manifest),
];

/// A duration is the sum of its parts in doubles, and reads back as it is written.
fn duration(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let Ok(duration) = text.parse::<GoDuration>() else { return false };
    assert_eq!(duration.to_string().parse(), Ok(duration));
    let (mut rest, mut sum, mut parts) = (text, 0.0, 0.0);
    while !rest.is_empty() {
        let is_number = |it: char| it.is_ascii_digit() || it == '.';
        let (number, after) = rest.split_at(rest.find(|it| !is_number(it)).unwrap());
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => panic!("{unit} is no unit"),
        };
        sum += number.parse::<f64>().unwrap() * seconds;
        parts += 1.0;
        rest = after;
    }
    // Each part is rounded down to a nanosecond.
    let difference = sum - duration.as_secs_f64();
    assert!(difference.abs() <= parts * 1.1e-9 + sum * 1e-12, "{duration} is not {sum}");
    true
}

/// A size is its number times its unit, and reads back as it is written.
fn byte_size(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let Ok(size) = text.parse::<ByteSize>() else { return false };
    assert_eq!(size.to_string().parse(), Ok(size));
    let (number, unit) = text.split_at(text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len()));
    let bytes: u128 = match unit {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        _ => panic!("{unit} is no unit"),
    };
    assert_eq!(u128::from(size.bytes()), number.parse::<u128>().unwrap() * bytes);
    true
}

/// An identity has one text. Its parts, joined again, are the same identity.
fn identity(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let Ok(identity) = text.parse::<Identity>() else { return false };
    assert_eq!(identity.to_string(), text);
    let again = match identity.organism() {
        None => Identity::operator(identity.trust_domain()),
        Some(organism) => {
            Identity::pod(identity.trust_domain(), organism, text.rsplit('/').next().unwrap_or_default())
        }
    };
    assert_eq!(again, Ok(identity));
    true
}

/// The URL of the issuer has one text: that of its host and port, and no other part of a URL.
fn issuer_url(input: &[u8]) -> bool {
    let Ok(text) = from_utf8(input) else { return false };
    let Ok(url) = text.parse::<Url>() else { return false };
    let Url { host, port, .. } = &url;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    assert_eq!(format!("https://{host}:{port}{PATH}"), text);
    assert_eq!(url.to_string(), text);
    true
}

/// An Organism or a Genome as JSON. What is valid reads back as it is written, is valid again, and can be run.
fn manifest(input: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(input) else { return false };
    let organism = valid(&value, |it: &Organism| validate::organism(&it.spec));
    let genome = valid(&value, |it: &Genome| validate::genome(&it.spec));
    if organism.is_none() && genome.is_none() {
        return false;
    }
    let defaults = || serde_json::json!({"metadata": {"name": "venom"}});
    let organism = organism.unwrap_or_else(|| api::read(defaults()).unwrap());
    let genome = genome.unwrap_or_else(|| api::read(defaults()).unwrap());
    let desired = Desired::from_specs(&organism, &genome);
    let pulse = &desired.config.pulse;
    assert!(t_lambda(pulse.k.max(2), pulse.p.max(1), pulse.t1, pulse.u).is_ok(), "{pulse:?}");
    true
}

/// The object, if it is a valid one.
fn valid<K: DeserializeOwned + Serialize>(
    value: &Value,
    validate: impl Fn(&K) -> Result<(), String>,
) -> Option<K> {
    let object: K = api::read(value.clone()).ok()?;
    validate(&object).ok()?;
    let written = serde_json::to_value(&object).unwrap();
    let again: K = api::read(written.clone()).unwrap();
    assert_eq!(validate(&again), Ok(()));
    assert_eq!(serde_json::to_value(&again).unwrap(), written);
    Some(object)
}
