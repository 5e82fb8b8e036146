//! Storage of ledgers.
//!
//! | module | content |
//! |---|---|
//! | [`head`] | the mutable record of a ledger, which lists its segments |
//! | [`recent`] | the inputs of the last half hour, for deduplication |
//! | [`opened`] | a verified segment: the chain before and after it |
//! | [`rebuild`] | a new head from the segments of a lost one |
//! | [`objects`] | names and metadata of a ledger's objects |
//! | [`configmap`] | a ledger in ConfigMaps |
//! | [`directory`] | a ledger in a folder of a file system |
//! | [`failure`] | what the API server said, in one sentence |

use std::time::Duration;

pub mod configmap;
pub mod directory;
pub mod failure;
pub mod head;
pub mod objects;
pub mod opened;
pub mod rebuild;
pub mod recent;

pub use failure::ApiFailure;
pub use head::{Head, HeadError, SegmentRef};
pub use opened::OpenedSegment;

/// Longest time that one call to the API server may take. Without it, a client that retries internally can spend
/// minutes on a call.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
