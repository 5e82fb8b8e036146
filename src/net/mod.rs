//! Listening and limiting: what every server of this program needs in front of its protocol.
//!
//! The mesh, the node's HTTP server and the operator's certificate issuer share these; the module depends on
//! none of them.

mod limits;
mod listen;

pub(crate) use limits::{ConnectionLimiter, ConnectionPermit, LogLimiter};
pub(crate) use listen::{bind, bind_dual_stack, bind_loopback};
