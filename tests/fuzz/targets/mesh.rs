//! What nodes and the operator send each other, and what clients send them.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::codec::Decoder;
use venom::ledger::Entry;
use venom::ledger::entry::{Data, Record};
use venom::mesh::certificate_request::CertificateRequest;
use venom::mesh::event::MAX_ANOMS;
use venom::mesh::identity::Authority;
use venom::mesh::wire::{self, MAX_FRAME_BYTES, Message, SettledEvent};
use venom::mesh::{Identity, Injectable, InjectionEvent, InjectionPayload, Outcome};
use venom::node::http::InjectionRequest;
use venom::organism::Input;
use venom::store::recent;
use x509_parser::extensions::GeneralName;

use super::Target;

pub const TARGETS: [Target; 3] =
    [("frames", frames), ("injection", injection), ("certificate_request", certificate_request)];

fn node() -> Identity {
    Identity::pod("venom", "6f1e0c9a", "node-1").unwrap()
}

/// A stream of frames. Each message reads back as it is written, and can be passed on, in frames that peers accept.
fn frames(input: &[u8]) -> bool {
    let (mut stream, mut codec) = (BytesMut::from(input), wire::codec());
    let mut accepted = false;
    while let Ok(Some(body)) = codec.decode(&mut stream) {
        assert!(body.len() <= MAX_FRAME_BYTES);
        let Ok(message) = Message::decode(&body) else { break };
        assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        let passed_on = match message.clone() {
            Message::Events(events) => Message::events(events),
            Message::Settled(settled) => Message::settled(settled.into_iter().map(shorten).collect()),
            message => vec![message],
        };
        for frame in &passed_on {
            let body = frame.encode();
            assert!(body.len() <= MAX_FRAME_BYTES, "{} bytes", body.len());
            assert_eq!(&Message::decode(&body).unwrap(), frame);
        }
        assert_eq!(items(&passed_on), items(&[message]));
        accepted = true;
    }
    accepted
}

/// As a peer takes it.
fn shorten(settled: SettledEvent) -> SettledEvent {
    let outcome = wire::shorten(settled.outcome);
    if let Outcome::Refused { reason } = &outcome {
        assert!(reason.len() <= 200 && !reason.chars().any(char::is_control), "{reason:?}");
    }
    SettledEvent { outcome, ..settled }
}

fn items(messages: &[Message]) -> usize {
    let items = messages.iter().map(|it| match it {
        Message::Events(events) => events.len(),
        Message::Settled(settled) => settled.len(),
        Message::Hello(_) | Message::Ping => 1,
    });
    items.sum()
}

/// The body of an injection. What a node accepts is within the bounds of the mesh, and its entry in a ledger reads back as
/// the same injection.
fn injection(input: &[u8]) -> bool {
    let Ok(request) = serde_json::from_slice::<InjectionRequest>(input) else { return false };
    let Some(Ok(id)) = request.id.as_ref().map(|it| it.parse()) else { return false };
    let payload = InjectionPayload { anoms: request.anoms, ml_weight: request.ml_weight };
    let injectable = Injectable::default();
    if payload.validate(injectable).is_err() {
        return false;
    }
    assert!(payload.anoms.is_none_or(|anoms| anoms <= MAX_ANOMS));
    assert!(payload.ml_weight.is_none_or(|it| injectable.min <= it && it <= injectable.max));
    let recorded = recent::input(&InjectionEvent { id, origin: node(), seq: 1, payload });
    let Ok(Record::Other(timestamp, data)) = Record::input(1.0, &recorded) else { panic!("{recorded:?}") };
    let entry = Entry { index: 0, timestamp, data, previous_hash: [0; 32], hash: [0; 32] };
    let (Input::Injection(recorded), Ok(Data::Injection(read))) = (recorded, entry.data()) else {
        panic!("{entry:?}");
    };
    assert_eq!(read, recorded);
    true
}

static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::new("venom", SystemTime::UNIX_EPOCH).unwrap());

/// The body of a request to the issuer. A certificate is for the identity that the operator has found out, and has nothing
/// that the request asks for but its key.
fn certificate_request(input: &[u8]) -> bool {
    let Ok(CertificateRequest { csr }) = serde_json::from_slice(input) else { return false };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_782_000_000);
    let Ok(signed) = AUTHORITY.sign(&csr, &node(), now, Duration::from_secs(3600)) else { return false };
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    let (rest, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(rest.is_empty() && !certificate.is_ca());
    assert_eq!(certificate.subject().to_string(), "CN=VENOM mesh");
    let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert!(matches!(names[..], [GeneralName::URI(uri)] if uri == node().to_string()), "{names:?}");
    assert_eq!(certificate.validity().not_after.timestamp(), 1_782_003_600);
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert_eq!(usage.flags, 1, "signatures only");
    true
}
