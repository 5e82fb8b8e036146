//! The dual-stack listener.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::TcpListener;

/// Listens on all IPv4 and IPv6 addresses, or on all IPv4 addresses where the system has no IPv6.
///
/// Port 0 binds a free port. IPv4 clients appear with IPv4-mapped addresses: use
/// [`to_canonical`](std::net::IpAddr::to_canonical) before comparing them.
pub(crate) async fn bind_dual_stack(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
    }
}
