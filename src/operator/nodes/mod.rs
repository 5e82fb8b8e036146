//! What the operator is to nodes: who vouches for them, and who hears what is injected through them.
//!
//! | module | what it is |
//! |---|---|
//! | [`authority`] | who signs the certificates of nodes and of the operator |
//! | [`issuer`] | where nodes get theirs |
//! | [`peers`] | where the nodes are |
//! | [`collector`] | the operator's place in a mesh: injections come in, answers go back |

pub mod authority;
pub mod collector;
pub mod issuer;
pub mod peers;
