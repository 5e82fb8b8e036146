//! `venom node`: a peer of the mesh.

use std::path::PathBuf;

use super::operator::{LogFormat, log};
use super::{Error, complain, signals};
use crate::mesh::Injectable;
use crate::node::source::{Issuer, Source};
use crate::node::{Node, Options};

/// What `venom node` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Peers; a host may stand for many addresses, its own among them
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', value_parser = peer)]
    pub peers: Vec<String>,
    /// Where peers are let in
    #[arg(long, value_name = "PORT", default_value_t = 9000)]
    pub mesh_port: u16,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub http_port: u16,
    /// Where injections are taken, on 127.0.0.1
    #[arg(long, value_name = "PORT", default_value_t = 8001)]
    pub inject_port: u16,
    #[command(flatten)]
    identity: Identity,
    /// The file that holds the token for the issuer
    #[arg(long, value_name = "FILE", requires = "issuer")]
    issuer_token: Option<PathBuf>,
    /// The file with the authority's certificates, by which issuer and peers are known
    #[arg(long, value_name = "FILE", requires = "issuer")]
    issuer_ca: Option<PathBuf>,
    /// Weights of the model that may be injected
    #[arg(long, value_name = "MIN..MAX", default_value = "0.01..1", value_parser = injectable)]
    pub injectable: Injectable,
    /// How log lines are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// One of the two.
#[derive(Clone, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Identity {
    /// A node's folder, made by venom mesh init
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Who signs this node's certificate
    #[arg(long, value_name = "URL", requires = "issuer_token", requires = "issuer_ca")]
    issuer: Option<hyper::Uri>,
}

/// HOST:PORT.
pub(super) fn peer(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    let right = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    if right { Ok(text.to_owned()) } else { Err("write HOST:PORT, such as localhost:9000".into()) }
}

/// MIN..MAX.
pub(super) fn injectable(text: &str) -> Result<Injectable, String> {
    let range = text.split_once("..").and_then(|(min, max)| {
        let (min, max) = (min.parse::<f64>().ok()?, max.parse::<f64>().ok()?);
        (min.is_finite() && max.is_finite() && min <= max).then_some(Injectable { min, max })
    });
    range.ok_or_else(|| "write the least and the most weight, such as 0.01..1".into())
}

impl Args {
    fn source(&self) -> Result<Source, Error> {
        match (&self.identity.identity, &self.identity.issuer, &self.issuer_token, &self.issuer_ca) {
            (Some(folder), ..) => Ok(Source::Folder(folder.clone())),
            (None, Some(url), Some(token), Some(ca)) => {
                Ok(Source::Issuer(Issuer { url: url.clone(), token: token.clone(), ca: ca.clone() }))
            }
            _ => {
                Err(Error::Usage("--issuer needs --issuer-token and --issuer-ca; or give --identity".into()))
            }
        }
    }
}

/// Runs a node until it is told to stop.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    log(args.log_format);
    let options = Options {
        peers: args.peers.clone(),
        mesh_port: args.mesh_port,
        http_port: Some(args.http_port),
        inject_port: args.inject_port,
        source: args.source()?,
        injectable: args.injectable,
    };
    let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
    // One thread is enough for a node, which mostly waits; the delivery queue has its own.
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

/// Where a node is to be found.
pub(super) fn listening(node: &Node) -> String {
    let http = node.http_address.map(|it| format!(", http on {it}")).unwrap_or_default();
    format!("mesh on {}, injections on {}{http}", node.mesh_address, node.inject_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_ranges_are_checked() {
        for text in ["localhost:9000", "10.0.0.1:1", "[::1]:9000", "venom-mesh.ns.svc:9000"] {
            assert!(peer(text).is_ok(), "{text}");
        }
        for text in ["", "localhost", "localhost:", ":9000", "localhost:0", "localhost:70000"] {
            assert!(peer(text).is_err(), "{text}");
        }
        assert_eq!(injectable("0.01..1"), Ok(Injectable::default()));
        for text in ["", "1", "1..0", "a..b", "0..inf"] {
            assert!(injectable(text).is_err(), "{text}");
        }
    }
}
