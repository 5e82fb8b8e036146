//! Where a node's certificate comes from, and its renewal.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use backon::{BackoffBuilder, ExponentialBuilder, Retryable};
use hyper::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::sleep;

use super::client;
use super::directory;
use crate::mesh::certificate_request::{CertificateRequest, CertificateResponse, EXCHANGE_TIMEOUT};
use crate::mesh::clock;
use crate::mesh::identity::{Credentials, IdentityError, generate_key_and_csr};
use crate::printable;

/// Longest part of an unexpected response that is shown.
const MAX_SHOWN_BYTES: usize = 300;
/// Retries for the first certificate. Short delays, because a node without one is of no use.
const STARTUP_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(1))
    .with_max_delay(Duration::from_secs(10))
    .without_max_times()
    .with_jitter();
/// Retries for a renewal. There are hours left until the old certificate expires.
const RENEWAL_BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_secs(2))
    .with_max_delay(MAX_RENEWAL_DELAY)
    .without_max_times()
    .with_jitter();
/// Shortest interval between two renewals, whatever the certificate says.
const MIN_RENEWAL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_RENEWAL_DELAY: Duration = Duration::from_secs(45);
/// What rustls says of the issuer's own certificate when that is from the future.
const NOT_VALID_YET: [&str; 2] = ["certificate not valid yet", "NotValidYet"];
/// The remedy for a certificate from the future.
const CHECK_CLOCKS: &str = "check the clock of this machine and that of the issuer";
/// Delay after a certificate with another identity, which takes a person to correct.
const WRONG_IDENTITY_DELAY: Duration = Duration::from_secs(60);
/// A directory is read again after a two-hundredth of the certificate's lifetime, within these bounds.
const MIN_DIRECTORY_POLL: Duration = Duration::from_secs(1);
const MAX_DIRECTORY_POLL: Duration = Duration::from_secs(30);

/// Where a node's certificate comes from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// A directory that `venom mesh init` created.
    Directory(PathBuf),
    /// A certificate issuer: the operator.
    Issuer(IssuerEndpoint),
}

/// A certificate issuer. The node posts a [`CertificateRequest`] with a bearer token.
#[derive(Clone, Debug)]
pub struct IssuerEndpoint {
    /// An https URL.
    pub url: Uri,
    /// File with the bearer token. Read for each request, because Kubernetes rotates it.
    pub token_file: PathBuf,
    /// PEM file with the CA certificates by which the node trusts the issuer and its peers.
    pub ca_file: PathBuf,
}

/// A node cannot get a certificate.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {reason}")]
pub struct CertificateUnavailable {
    /// The file, directory or URL that failed.
    pub subject: String,
    /// What went wrong.
    pub reason: String,
}

impl CertificateUnavailable {
    pub(super) fn new(subject: &dyn fmt::Display, reason: &dyn fmt::Display) -> Self {
        Self { subject: subject.to_string(), reason: reason.to_string() }
    }
}

pub(super) fn read_file(path: &Path) -> Result<String, CertificateUnavailable> {
    fs::read_to_string(path).map_err(|error| CertificateUnavailable::new(&path.display(), &error))
}

impl CertificateSource {
    /// Returns a certificate that is valid now, with its key: from the directory, or generated and signed.
    ///
    /// # Errors
    /// [`CertificateUnavailable`].
    pub async fn obtain(&self) -> Result<Credentials, CertificateUnavailable> {
        let credentials = match self {
            Self::Directory(path) => directory::read_credentials(path)?,
            Self::Issuer(issuer) => issuer.obtain().await?,
        };
        let now = SystemTime::now();
        if credentials.not_after <= now {
            return Err(CertificateUnavailable::new(self, &"the certificate has expired; issue a new one"));
        }
        if let Ok(early) = credentials.not_before.duration_since(now) {
            let early = early.as_secs() + 1;
            let what = format!("the certificate is valid only in {early} s; {CHECK_CLOCKS}");
            return Err(CertificateUnavailable::new(self, &what));
        }
        Ok(credentials)
    }

    /// Returns the first certificate. Retries an issuer until it succeeds, because the operator may start after
    /// the node, and calls `on_failure` each time. An unusable directory is an error at once.
    pub(super) async fn obtain_first(
        &self,
        mut on_failure: impl FnMut(&CertificateUnavailable),
    ) -> Result<Credentials, CertificateUnavailable> {
        (|| self.obtain())
            .retry(STARTUP_BACKOFF)
            .when(|_| matches!(self, Self::Issuer(_)))
            .notify(|error, _| on_failure(error))
            .await
    }

    /// Replaces `current` with a new certificate in time, for ever.
    pub(super) async fn keep_renewed(self, current: watch::Sender<Credentials>) {
        let mut backoff = RENEWAL_BACKOFF.build();
        let mut delay = self.poll_interval(&current.borrow());
        let mut authorities = self.authorities();
        loop {
            match delay {
                Some(delay) => sleep(delay).await,
                None => {
                    sleep(MIN_RENEWAL_INTERVAL).await;
                    let credentials = current.borrow().clone();
                    let changed = || self.authorities().is_some_and(|now| Some(now) != authorities);
                    let due = |now| if changed() { Ok(()) } else { credentials.renewal_due(now) };
                    clock::wait_until(due).await;
                }
            }
            // Read before the request, so that a change during it is seen.
            authorities = self.authorities().or(authorities);
            let (identity, not_after) = {
                let current = current.borrow();
                (current.identity.clone(), current.not_after)
            };
            delay = match self.obtain().await {
                Ok(new) if new.identity != identity => {
                    tracing::error!(
                        "{self}: ignored a certificate for {}, because this node is {identity}",
                        new.identity
                    );
                    Some(WRONG_IDENTITY_DELAY)
                }
                Ok(new) => {
                    backoff = RENEWAL_BACKOFF.build();
                    let delay = self.poll_interval(&new);
                    if new.not_after == not_after {
                        Some(delay.unwrap_or(MIN_DIRECTORY_POLL))
                    } else {
                        tracing::info!("{self}: renewed the certificate");
                        current.send_replace(new);
                        delay
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot renew the certificate; retrying: {error}");
                    Some(backoff.next().unwrap_or(MAX_RENEWAL_DELAY))
                }
            };
        }
    }

    /// The CA certificates that an issuer's node trusts. They change when the installation has a new CA: the node then
    /// needs a certificate of that one, and has to trust both until all nodes have one.
    fn authorities(&self) -> Option<String> {
        match self {
            Self::Directory(_) => None,
            Self::Issuer(issuer) => read_file(&issuer.ca_file).ok(),
        }
    }

    /// How long to wait before looking for others than `credentials`; none where they are requested once they are due.
    fn poll_interval(&self, credentials: &Credentials) -> Option<Duration> {
        match self {
            Self::Directory(_) => {
                let lifetime =
                    credentials.not_after.duration_since(credentials.not_before).unwrap_or_default();
                Some((lifetime / 200).clamp(MIN_DIRECTORY_POLL, MAX_DIRECTORY_POLL))
            }
            Self::Issuer(_) => None,
        }
    }
}

impl fmt::Display for CertificateSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(out, "{}", path.display()),
            Self::Issuer(issuer) => write!(out, "{}", issuer.url),
        }
    }
}

impl IssuerEndpoint {
    async fn obtain(&self) -> Result<Credentials, CertificateUnavailable> {
        let failed = |reason: &dyn fmt::Display| CertificateUnavailable::new(&self.url, reason);
        let unusable = |error: IdentityError| failed(&error);
        let (ca, token) = (read_file(&self.ca_file)?, read_file(&self.token_file)?);
        let tls = tls_config(&ca)
            .map_err(|reason| CertificateUnavailable::new(&self.ca_file.display(), &reason))?;
        let (key, csr) = generate_key_and_csr().map_err(unusable)?;
        let request = serde_json::to_vec(&CertificateRequest { csr }).map_err(|error| failed(&error))?;
        let bearer = format!("Bearer {}", token.trim());
        let response =
            client::post_json(&self.url, &request, Some(&bearer), Some(tls), EXCHANGE_TIMEOUT).await;
        let response = response.map_err(|error| match NOT_VALID_YET.iter().any(|it| error.contains(it)) {
            true => failed(&format!("{error}; {CHECK_CLOCKS}")),
            false => failed(&error),
        })?;
        if response.status != 200 {
            let text = printable::line(String::from_utf8_lossy(&response.body).trim(), MAX_SHOWN_BYTES);
            return Err(failed(&format!("status {}: {text}", response.status)));
        }
        let response: CertificateResponse =
            serde_json::from_slice(&response.body).map_err(|error| failed(&error))?;
        Credentials::from_pem(&ca, &response.certificate, &key, None).map_err(unusable)
    }
}

/// A TLS configuration that trusts the CA certificates in `ca_pem` and no others.
fn tls_config(ca_pem: &str) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() {
        return Err("no certificate in PEM form".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
