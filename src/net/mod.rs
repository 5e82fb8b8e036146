//! Listening and limiting: what every server of this program needs in front of its protocol.
//!
//! The mesh, the HTTP servers of node and operator, and the certificate issuer share these; the module depends on
//! none of them.

mod http;
mod limits;
mod listen;

pub(crate) use http::{HttpServer, http1};
pub(crate) use limits::{Connection, Connections, LogLimiter, share_of_descriptors};
pub(crate) use listen::{accept, bind, bind_dual_stack, bind_loopback};
