//! The wire protocol: frames with a length of four bytes (big-endian) and a JSON body.
//!
//! The length is checked before anything is allocated: a frame above [`MAX_FRAME_BYTES`] ends the link.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use super::event::{InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::spiffe::Identity;
use crate::printable;

/// Maximum size of a frame's body.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// A batch starts a new frame beyond this size. The rest up to [`MAX_FRAME_BYTES`] is room for one item: no item
/// is half that long.
const TARGET_FRAME_BYTES: usize = 48 * 1024;
/// Maximum length of a refusal's reason on the wire, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// The protocol version of this build. Peers of different versions do not link.
pub const PROTOCOL_VERSION: u32 = 1;

/// The body of one frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// The first message in each direction, and only the first.
    Hello(Hello),
    /// Keep-alive.
    Ping,
    /// Injections without a known outcome, in order of arrival at the sender.
    Events(Vec<WireEvent>),
    /// Outcomes of injections.
    Settled(Vec<SettledEvent>),
}

/// The greeting that opens a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// A random number drawn when the sender's process started. It distinguishes a restarted peer from its
    /// predecessor with the same identity.
    pub instance: u64,
    /// The port on which the sender accepts links, at the address it connects from. The receiver does
    /// not dial that address while the link is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// An injection on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireEvent {
    /// The client's id.
    pub id: InjectionId,
    /// The peer that accepted the injection. Absent if that is the sender, whom its certificate identifies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Identity>,
    /// [`InjectionEvent::seq`].
    pub seq: u64,
    /// Milliseconds since the origin accepted it. An age, not a time: peers share no clock.
    pub age: u64,
    /// What to inject.
    #[serde(flatten)]
    pub payload: InjectionPayload,
}

/// An injection and its outcome on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettledEvent {
    /// The injection, in full: the receiver may not have seen it before.
    pub event: WireEvent,
    /// Its outcome.
    pub outcome: Outcome,
}

/// The frame's body is not a [`Message`].
#[derive(Debug, thiserror::Error)]
#[error("invalid frame: {0}")]
pub struct InvalidFrame(#[from] serde_json::Error);

impl Message {
    /// Parses the body of a frame.
    ///
    /// # Errors
    /// [`InvalidFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, InvalidFrame> {
        Ok(serde_json::from_slice(body)?)
    }

    /// Serializes to the body of a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Cannot fail: strings, integers and finite floats are all valid JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Packs `events` into as few frames as possible.
    #[must_use]
    pub fn events(events: Vec<WireEvent>) -> Vec<Self> {
        batches(events).map(Self::Events).collect()
    }

    /// Packs `settled` into as few frames as possible.
    #[must_use]
    pub fn settled(settled: Vec<SettledEvent>) -> Vec<Self> {
        batches(settled).map(Self::Settled).collect()
    }
}

/// Splits `items` into batches of at most [`TARGET_FRAME_BYTES`], or one item.
fn batches<T: Serialize>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut batches = vec![];
    let (mut batch, mut bytes) = (vec![], 0);
    for item in items {
        let size = serde_json::to_vec(&item).map_or(0, |it| it.len() + 1);
        if bytes + size > TARGET_FRAME_BYTES && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += size;
        batch.push(item);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches.into_iter()
}

impl WireEvent {
    /// `event` as `sender` sends it, accepted by its origin `age` milliseconds ago.
    #[must_use]
    pub fn new(event: &InjectionEvent, age: u64, sender: &Identity) -> Self {
        let origin = (event.origin != *sender).then(|| event.origin.clone());
        Self { id: event.id.clone(), origin, seq: event.seq, age, payload: event.payload }
    }
}

/// The outcome with a reason of one short line that a terminal can show, whatever a peer sent.
#[must_use]
pub fn shorten(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Refused { reason } => {
            Outcome::Refused { reason: printable::line(&reason, MAX_REASON_BYTES) }
        }
        committed @ Outcome::Committed { .. } => committed,
    }
}

/// The codec of a link: frames with a four-byte length.
#[must_use]
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(MAX_FRAME_BYTES).new_codec()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::{Decoder, Encoder};

    use super::*;

    fn id() -> impl Strategy<Value = InjectionId> {
        "[A-Za-z0-9-]{1,64}".prop_map(|text| text.parse().unwrap())
    }

    fn origin() -> impl Strategy<Value = Option<Identity>> {
        proptest::option::of(
            ("[a-z0-9.-]{1,63}", "[a-z0-9-]{1,63}", "[a-z0-9-]{1,63}")
                .prop_map(|(domain, organism, pod)| Identity::pod(&domain, &organism, &pod).unwrap()),
        )
    }

    fn sent() -> impl Strategy<Value = WireEvent> {
        let payload = (proptest::option::of(any::<u64>()), proptest::option::of(0.0..1.0_f64));
        (id(), origin(), any::<u64>(), any::<u64>(), payload).prop_map(|(id, origin, seq, age, payload)| {
            WireEvent {
                id,
                origin,
                seq,
                age,
                payload: InjectionPayload { anoms: payload.0, ml_weight: payload.1 },
            }
        })
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            any::<u64>().prop_map(|entry| Outcome::Committed { entry }),
            ".{0,600}".prop_map(|reason| shorten(Outcome::Refused { reason })),
        ]
    }

    fn message() -> impl Strategy<Value = Message> {
        let settled = (sent(), outcome()).prop_map(|(event, outcome)| SettledEvent { event, outcome });
        prop_oneof![
            (any::<u32>(), any::<u64>(), any::<Option<u16>>())
                .prop_map(|(version, instance, port)| Message::Hello(Hello { version, instance, port })),
            Just(Message::Ping),
            proptest::collection::vec(sent(), 0..20).prop_map(Message::Events),
            proptest::collection::vec(settled, 0..20).prop_map(Message::Settled),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_round_trip_however_the_stream_is_chunked(messages in proptest::collection::vec(message(), 0..8), cut in 1_usize..700) {
            let (mut out, mut codec) = (BytesMut::new(), codec());
            for message in &messages {
                codec.encode(message.encode(), &mut out).unwrap();
            }
            let (mut buffer, mut read) = (BytesMut::new(), vec![]);
            for piece in out.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(body) = codec.decode(&mut buffer).unwrap() {
                    read.push(Message::decode(&body).unwrap());
                }
            }
            prop_assert_eq!(read, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_are_decoded_or_rejected(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut codec = codec();
            while let Ok(Some(body)) = codec.decode(&mut buffer) {
                let _ = Message::decode(&body);
            }
            prop_assert!(buffer.capacity() <= MAX_FRAME_BYTES + 1024);
        }

        #[test]
        fn many_events_are_split_into_frames(some in proptest::collection::vec(sent(), 0..12), times in 1_usize..60) {
            let events: Vec<WireEvent> = some.iter().cycle().take(some.len() * times).cloned().collect();
            let frames = Message::events(events.clone());
            let mut all = vec![];
            for frame in frames {
                prop_assert!(frame.encode().len() <= MAX_FRAME_BYTES);
                let Message::Events(events) = frame else { panic!() };
                prop_assert!(!events.is_empty());
                all.extend(events);
            }
            prop_assert_eq!(all, events);
        }
    }

    /// The longest possible refusal, with every byte escaped in JSON, fits a frame.
    #[test]
    fn the_longest_item_fits_a_frame() {
        let part = "x".repeat(63);
        let event = WireEvent {
            id: "x".repeat(64).parse().unwrap(),
            origin: Some(Identity::pod(&part, &part, &part).unwrap()),
            seq: u64::MAX,
            age: u64::MAX,
            payload: InjectionPayload { anoms: Some(u64::MAX), ml_weight: Some(f64::MIN_POSITIVE) },
        };
        let outcome = shorten(Outcome::Refused { reason: "\u{1}".repeat(9_999) });
        let settled = SettledEvent { event, outcome };
        let frames = Message::settled(vec![settled; 100]);
        assert!(frames.len() > 1);
        assert!(frames.iter().all(|frame| frame.encode().len() <= MAX_FRAME_BYTES));
    }

    #[test]
    fn an_excessive_length_prefix_allocates_nothing() {
        for length in [MAX_FRAME_BYTES as u32 + 1, 1 << 30, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(codec().decode(&mut buffer).is_err());
            assert!(buffer.capacity() <= 64, "{}", buffer.capacity());
        }
    }
}
