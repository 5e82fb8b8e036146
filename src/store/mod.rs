//! Where ledgers live.
//!
//! | module | what it is |
//! |---|---|
//! | [`head`] | the one mutable record of a ledger: which segments are it |
//! | [`injections`] | the ids of injections that a ledger holds already |
//! | [`opened`] | a segment decoded and placed between the chains on either side of it |
//! | [`configmap`] | a ledger in a cluster |
//! | [`directory`] | a ledger in a folder |

pub mod configmap;
pub mod directory;
pub mod head;
pub mod injections;
pub mod opened;

pub use head::{Head, Listed};
pub use opened::Opened;
