//! What peers say to one another: frames of four bytes of length (big-endian) and a JSON body.
//!
//! The length is looked at before anything is allocated: a frame above [`MAX_FRAME_BYTES`] ends the link.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::codec::LengthDelimitedCodec;

use super::event::{InjectionEvent, InjectionId, InjectionPayload, Outcome};
use super::name::Identity;

/// Most bytes of a frame's body.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// A frame that holds several items is closed at this many bytes; no single item is half as long as the rest.
const TARGET_FRAME_BYTES: usize = 48 * 1024;
/// Longest reason of a refusal that goes out, in bytes.
const MAX_REASON_BYTES: usize = 500;
/// The version that this program speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// One frame's body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// The first one in each direction.
    Hello(Hello),
    /// Nothing to say, still here.
    Ping,
    /// Injections that are not known to be settled, in the order in which they were taken.
    Events(Vec<WireEvent>),
    /// What became of injections.
    Settled(Vec<SettledEvent>),
}

/// How a link begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// Drawn by lot when the sender's process started: tells a restarted peer from one that is still there.
    pub instance: u64,
    /// Where the sender lets peers in, on the address that it is seen at: whom it has dialled need not dial it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// An injection as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WireEvent {
    /// The client's id.
    pub id: InjectionId,
    /// Who took it in; missing where that is the sender itself, whose certificate says who that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Identity>,
    /// The origin's count.
    pub seq: u64,
    /// Milliseconds since it was taken in: peers share no clock.
    pub age: u64,
    /// What is injected.
    #[serde(flatten)]
    pub payload: InjectionPayload,
}

/// What became of an injection, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettledEvent {
    /// The injection.
    pub event: WireEvent,
    /// What became of it.
    pub outcome: Outcome,
}

/// A frame that says nothing this program understands.
#[derive(Debug, thiserror::Error)]
#[error("not a frame of this mesh: {0}")]
pub struct InvalidFrame(#[from] serde_json::Error);

impl Message {
    /// The body of a frame.
    ///
    /// # Errors
    /// [`InvalidFrame`].
    pub fn decode(body: &[u8]) -> Result<Self, InvalidFrame> {
        Ok(serde_json::from_slice(body)?)
    }

    /// The body of a frame.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Texts, whole numbers and finite floats: there is nothing in it that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// `events` in as few frames as will hold them.
    #[must_use]
    pub fn events(events: Vec<WireEvent>) -> Vec<Self> {
        frames(events).map(Self::Events).collect()
    }

    /// `settled` in as few frames as will hold them.
    #[must_use]
    pub fn settled(settled: Vec<SettledEvent>) -> Vec<Self> {
        frames(settled).map(Self::Settled).collect()
    }
}

/// Cuts `items` where a frame is full.
fn frames<T: Serialize>(items: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let mut frames = vec![];
    let (mut frame, mut bytes) = (vec![], 0);
    for item in items {
        let size = serde_json::to_vec(&item).map_or(0, |it| it.len() + 1);
        if bytes + size > TARGET_FRAME_BYTES && !frame.is_empty() {
            frames.push(std::mem::take(&mut frame));
            bytes = 0;
        }
        bytes += size;
        frame.push(item);
    }
    if !frame.is_empty() {
        frames.push(frame);
    }
    frames.into_iter()
}

impl WireEvent {
    /// `event`, taken in `age` milliseconds ago, as `me` sends it.
    #[must_use]
    pub fn new(event: &InjectionEvent, age: u64, me: &Identity) -> Self {
        let origin = (event.origin != *me).then(|| event.origin.clone());
        Self { id: event.id.clone(), origin, seq: event.seq, age, payload: event.payload }
    }
}

/// A reason, short enough for every frame.
#[must_use]
pub fn truncate_reason(mut reason: String) -> String {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

/// The codec of a link.
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
            ".{0,600}".prop_map(|reason| Outcome::Refused { reason: truncate_reason(reason) }),
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
        fn frames_come_out_as_they_went_in(messages in proptest::collection::vec(message(), 0..8), cut in 1_usize..700) {
            let (mut out, mut codec) = (BytesMut::new(), codec());
            for message in &messages {
                codec.encode(message.encode(), &mut out).unwrap();
            }
            // However the bytes are cut on their way.
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
        fn whatever_comes_in_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let mut codec = codec();
            while let Ok(Some(body)) = codec.decode(&mut buffer) {
                let _ = Message::decode(&body);
            }
            prop_assert!(buffer.capacity() <= MAX_FRAME_BYTES + 1024);
        }

        #[test]
        fn many_events_are_cut_into_frames(some in proptest::collection::vec(sent(), 0..12), times in 1_usize..60) {
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

    /// The longest refusal there can be, as JSON escapes it at worst, fits a frame with room to spare.
    #[test]
    fn the_longest_item_fits() {
        let part = "x".repeat(63);
        let event = WireEvent {
            id: "x".repeat(64).parse().unwrap(),
            origin: Some(Identity::pod(&part, &part, &part).unwrap()),
            seq: u64::MAX,
            age: u64::MAX,
            payload: InjectionPayload { anoms: Some(u64::MAX), ml_weight: Some(f64::MIN_POSITIVE) },
        };
        let outcome = Outcome::Refused { reason: truncate_reason("\u{1}".repeat(9_999)) };
        let settled = SettledEvent { event, outcome };
        let frames = Message::settled(vec![settled; 100]);
        assert!(frames.len() > 1);
        assert!(frames.iter().all(|frame| frame.encode().len() <= MAX_FRAME_BYTES));
    }

    #[test]
    fn a_length_beyond_the_bound_allocates_nothing() {
        for length in [MAX_FRAME_BYTES as u32 + 1, 1 << 30, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert!(codec().decode(&mut buffer).is_err());
            assert!(buffer.capacity() <= 64, "{}", buffer.capacity());
        }
    }
}
