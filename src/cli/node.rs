//! `venom node`: runs a node of a mesh.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::log::{self, LogFormat};
use super::output::complain;
use super::{Error, signals};
use crate::mesh::Injectable;
use crate::node::certificate_source::{CertificateSource, IssuerEndpoint};
use crate::node::{Node, Options};

/// Arguments of `venom node`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Peers; a host may have many addresses, this node's own among them
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = peer)]
    pub peers: Vec<String>,
    /// Port for links from other nodes
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    pub mesh_port: u16,
    /// Port of /metrics, /healthz and /readyz
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub http_port: u16,
    /// Port of the injection API, on 127.0.0.1 and ::1
    #[arg(long, value_name = "PORT", default_value_t = 8001)]
    pub inject_port: u16,
    #[command(flatten)]
    identity: Identity,
    /// File with the bearer token for the issuer
    #[arg(long, value_name = "FILE", requires = "issuer")]
    issuer_token: Option<PathBuf>,
    /// File with the CA certificates by which issuer and peers are verified
    #[arg(long, value_name = "FILE", requires = "issuer")]
    issuer_ca: Option<PathBuf>,
    /// Range of model weights that may be injected
    #[arg(long, value_name = "MIN..MAX", default_value = "0.01..1", value_parser = injectable)]
    pub injectable: Injectable,
    /// Format of log lines
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Where the certificate comes from: exactly one of the two.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Identity {
    /// A node's directory, created by venom mesh init
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// URL of the issuer that signs this node's certificate
    #[arg(long, value_name = "URL", requires = "issuer_token", requires = "issuer_ca")]
    issuer: Option<hyper::Uri>,
}

/// Parses HOST:PORT.
pub(super) fn peer(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    // Without brackets it would be unclear where an IPv6 address ends.
    let valid_host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains(':'),
    };
    let valid = valid_host && port.parse::<u16>().is_ok_and(|port| port > 0);
    if valid {
        Ok(text.to_owned())
    } else {
        Err("use HOST:PORT, such as localhost:9000 or [fd00::1]:9000".into())
    }
}

/// Parses MIN..MAX.
pub(super) fn injectable(text: &str) -> Result<Injectable, String> {
    let range = text.split_once("..").and_then(|(min, max)| {
        let (min, max) = (min.parse::<f64>().ok()?, max.parse::<f64>().ok()?);
        (min.is_finite() && max.is_finite() && min <= max).then_some(Injectable { min, max })
    });
    range.ok_or_else(|| "use MIN..MAX, such as 0.01..1".into())
}

impl Args {
    fn certificate_source(&self) -> Result<CertificateSource, Error> {
        match (&self.identity.identity, &self.identity.issuer, &self.issuer_token, &self.issuer_ca) {
            (Some(directory), ..) => Ok(CertificateSource::Directory(directory.clone())),
            (None, Some(url), Some(token), Some(ca)) => {
                let (url, token_file, ca_file) = (url.clone(), token.clone(), ca.clone());
                Ok(CertificateSource::Issuer(IssuerEndpoint { url, token_file, ca_file }))
            }
            _ => Err(Error::Usage(
                "--issuer requires --issuer-token and --issuer-ca; give both, or use --identity".into(),
            )),
        }
    }
}

/// Runs a node until SIGINT or SIGTERM.
///
/// # Errors
/// [`Error`] if the node cannot start.
pub fn run(args: &Args) -> Result<(), Error> {
    log::start(args.log_format);
    let options = Options {
        peers: args.peers.clone(),
        mesh_port: args.mesh_port,
        http_port: Some(args.http_port),
        inject_port: args.inject_port,
        certificate_source: args.certificate_source()?,
        injectable: args.injectable,
    };
    let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
    // One thread suffices: a node mostly waits, and the delivery queue has a thread of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| failed(&error))?.block_on(async {
        let mut stop = signals::Stop::new().map_err(|error| failed(&error))?;
        let (node, _) = tokio::select! {
            started = Node::start(options, None) => started.map_err(|error| failed(&error))?,
            // It may be waiting for its first certificate.
            () = stop.requested() => return Ok(()),
        };
        complain(&listening(&node));
        stop.requested().await;
        node.stop().await;
        Ok(())
    })
}

/// The node's listening addresses, for the user.
pub(super) fn listening(node: &Node) -> String {
    let http = node.http_address.map(|it| format!(", http on {it}")).unwrap_or_default();
    let injections: Vec<String> = node.inject_addresses.iter().map(ToString::to_string).collect();
    format!("mesh on {}, injections on {}{http}", node.mesh_address, injections.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_peers_and_ranges_are_rejected() {
        for text in ["localhost:9000", "10.0.0.1:1", "[::1]:9000", "venom-mesh.ns.svc:9000"] {
            assert!(peer(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "localhost",
            "localhost:",
            ":9000",
            "localhost:0",
            "localhost:70000",
            "::1:9000",
            "[venom]:9000",
        ] {
            assert!(peer(text).is_err(), "{text}");
        }
        assert_eq!(injectable("0.01..1"), Ok(Injectable::default()));
        for text in ["", "1", "1..0", "a..b", "0..inf"] {
            assert!(injectable(text).is_err(), "{text}");
        }
    }
}
