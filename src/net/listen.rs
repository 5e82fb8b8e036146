//! Listeners on IPv4 and IPv6.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Pause after a failed accept, which would fail again at once while file descriptors are exhausted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Free ports to try until one is free on both loopback addresses.
const LOOPBACK_ATTEMPTS: u32 = 16;

/// Listens on `address`, where `[::]` means all IPv4 and IPv6 addresses: see [`bind_dual_stack`].
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    match address.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => bind_dual_stack(address.port()).await,
        _ => TcpListener::bind(address).await,
    }
}

/// Listens on all IPv4 and IPv6 addresses, or on all IPv4 addresses where the system has no IPv6.
///
/// Port 0 binds a free port. IPv4 clients appear with IPv4-mapped addresses, which [`accept`] converts.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) async fn bind_dual_stack(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if !is_refused(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
        bound => bound,
    }
}

/// Listens on `127.0.0.1` and `::1`, or on the only one of them that the system has. Port 0 binds a free port, the same
/// on both.
///
/// # Errors
/// When the port cannot be bound on an address that exists.
pub(crate) async fn bind_loopback(port: u16) -> io::Result<Vec<TcpListener>> {
    let mut attempts = if port == 0 { LOOPBACK_ATTEMPTS } else { 1 };
    loop {
        attempts -= 1;
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let bound = v4.as_ref().ok().and_then(|it| it.local_addr().ok()).map_or(port, |it| it.port());
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, bound)).await;
        return match (v4, v6) {
            (Ok(_), Err(error)) if is_refused(&error) && attempts > 0 => continue,
            (Err(error), _) | (_, Err(error)) if is_refused(&error) => Err(error),
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(v4.into_iter().chain(v6).collect()),
        };
    }
}

/// Accepts the next connection. Returns its source with an IPv4-mapped address as IPv4.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                return (stream, SocketAddr::new(source.ip().to_canonical(), source.port()));
            }
            // File descriptors are exhausted, or the client has closed the connection already.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Whether the address exists, but not for this process: another one listens there, or it lacks the right. All other
/// errors mean that the system does not have the address.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn assert_reachable(addresses: &[IpAddr], port: u16) {
        for address in addresses {
            let connected = TcpStream::connect((*address, port)).await;
            assert!(connected.is_ok(), "{address}: {connected:?}");
        }
    }

    fn loopback() -> [IpAddr; 2] {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    }

    #[tokio::test]
    async fn the_unspecified_ipv6_address_accepts_both_families() {
        let listener = bind("[::]:0".parse().unwrap()).await.unwrap();
        assert_reachable(&loopback(), listener.local_addr().unwrap().port()).await;
    }

    #[tokio::test]
    async fn a_specific_address_is_bound_as_it_is() {
        for address in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(bind(address).await.unwrap().local_addr().unwrap().ip(), address.ip());
        }
    }

    #[tokio::test]
    async fn loopback_is_one_port_on_both_addresses() {
        let listeners = bind_loopback(0).await.unwrap();
        let bound: Vec<SocketAddr> = listeners.iter().map(|it| it.local_addr().unwrap()).collect();
        assert_eq!(bound.iter().map(SocketAddr::ip).collect::<Vec<_>>(), loopback());
        assert_eq!(bound[0].port(), bound[1].port());
        assert_reachable(&loopback(), bound[0].port()).await;
    }

    /// Falling back to the other family would hide that half of the clients reach another program.
    #[tokio::test]
    async fn a_port_that_is_taken_in_one_family_is_an_error() {
        for taken in loopback() {
            let other = TcpListener::bind((taken, 0)).await.unwrap();
            let port = other.local_addr().unwrap().port();
            assert_eq!(bind_loopback(port).await.unwrap_err().kind(), ErrorKind::AddrInUse, "{taken}");
        }
        let other = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
        let port = other.local_addr().unwrap().port();
        assert_eq!(bind_dual_stack(port).await.unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
