//! Where a node's certificate comes from, and how the next one comes in time.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::sleep;

use super::client;
use super::folder;
use crate::mesh::certificate_request::{CertificateRequest, CertificateResponse};
use crate::mesh::identity::{Credentials, IdentityError, generate_key_and_csr};

/// How long an issuer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Longest pause before the first certificate: a pod that has none is of no use.
const LONGEST_FIRST_PAUSE: Duration = Duration::from_secs(15);
/// A folder is looked at this often: at each two-hundredth of the certificate's life, within these.
const SOONEST_LOOK: Duration = Duration::from_secs(1);
const LATEST_LOOK: Duration = Duration::from_secs(60);

/// Where a certificate comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of `venom mesh init`.
    Folder(PathBuf),
    /// Somebody who signs what a node asks for.
    Issuer(Issuer),
}

/// Somebody who signs what a node asks for: it is sent `{"csr": PEM}` with a bearer token, and answers
/// `{"certificate": PEM}`.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// An https address.
    pub url: Uri,
    /// The file that holds the token; read anew each time.
    pub token: PathBuf,
    /// The file with the certificates of the authority: it vouches for the issuer, and for every peer.
    pub ca: PathBuf,
}

/// No certificate, and why.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct NoCertificate {
    /// What was asked.
    pub what: String,
    /// What went wrong, and what to do.
    pub why: String,
}

fn none(what: &dyn fmt::Display, why: &dyn fmt::Display) -> NoCertificate {
    NoCertificate { what: what.to_string(), why: why.to_string() }
}

pub(super) fn read(path: &Path) -> Result<String, NoCertificate> {
    fs::read_to_string(path).map_err(|error| none(&path.display(), &error))
}

impl Source {
    /// A certificate that is good now. A new key is made for it, unless it comes from a folder.
    ///
    /// # Errors
    /// [`NoCertificate`].
    pub async fn obtain(&self) -> Result<Credentials, NoCertificate> {
        let credentials = match self {
            Self::Folder(folder) => folder::read(folder)?,
            Self::Issuer(issuer) => issuer.obtain().await?,
        };
        if credentials.not_after <= SystemTime::now() {
            return Err(none(self, &"the certificate has expired; make a new one"));
        }
        Ok(credentials)
    }

    /// The first certificate. A folder that is wrong stays wrong. An issuer may be on its way, as may the files
    /// that it takes to ask it: it is asked until it answers, and `waiting` hears each time why not.
    pub(super) async fn first(
        &self,
        mut waiting: impl FnMut(&NoCertificate),
    ) -> Result<Credentials, NoCertificate> {
        let mut pause = FIRST_PAUSE / 2;
        loop {
            match (self, self.obtain().await) {
                (Self::Issuer(_), Err(error)) => waiting(&error),
                (_, done) => return done,
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_FIRST_PAUSE);
        }
    }

    /// Sees to it that `current` never gets old.
    pub(super) async fn renew(self, current: watch::Sender<Credentials>) {
        let mut pause = FIRST_PAUSE;
        let mut wait = self.wait(&current.borrow());
        loop {
            sleep(wait).await;
            let (name, was) = {
                let current = current.borrow();
                (current.identity.clone(), current.not_after)
            };
            match self.obtain().await {
                Ok(new) if new.identity != name => {
                    tracing::error!(
                        "{self}: the certificate is for {}, this is {name}; it is not used",
                        new.identity
                    );
                    wait = LONGEST_PAUSE;
                }
                Ok(new) => {
                    pause = FIRST_PAUSE;
                    if new.not_after != was {
                        tracing::info!("{self}: new certificate");
                        wait = self.wait(&new);
                        current.send_replace(new);
                    } else {
                        wait = self.wait(&new).max(SOONEST_LOOK);
                    }
                }
                Err(error) => {
                    tracing::warn!("no new certificate: {error}");
                    wait = jittered(pause);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// How long to leave `credentials` as they are.
    fn wait(&self, credentials: &Credentials) -> Duration {
        match self {
            Self::Folder(_) => {
                let life = credentials.not_after.duration_since(credentials.not_before).unwrap_or_default();
                (life / 200).clamp(SOONEST_LOOK, LATEST_LOOK)
            }
            Self::Issuer(_) => credentials.renew_at().duration_since(SystemTime::now()).unwrap_or_default(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => write!(out, "{}", folder.display()),
            Self::Issuer(issuer) => write!(out, "{}", issuer.url),
        }
    }
}

impl Issuer {
    async fn obtain(&self) -> Result<Credentials, NoCertificate> {
        let wrong = |why: &dyn fmt::Display| none(&self.url, why);
        let broken = |error: IdentityError| wrong(&error);
        let (ca, token) = (read(&self.ca)?, read(&self.token)?);
        let tls = trusting(&ca).map_err(|why| none(&self.ca.display(), &why))?;
        let (key, csr) = generate_key_and_csr().map_err(broken)?;
        let ask = serde_json::to_vec(&CertificateRequest { csr }).map_err(|error| wrong(&error))?;
        let bearer = format!("Bearer {}", token.trim());
        let answer = client::post(&self.url, &ask, Some(&bearer), Some(tls), PATIENCE).await;
        let answer = answer.map_err(|why| wrong(&why))?;
        if answer.status != 200 {
            let said = String::from_utf8_lossy(&answer.body).trim().chars().take(300).collect::<String>();
            return Err(wrong(&format!("answered {}: {said}", answer.status)));
        }
        let issued: CertificateResponse =
            serde_json::from_slice(&answer.body).map_err(|error| wrong(&error))?;
        Credentials::from_pem(&ca, &issued.certificate, &key, None).map_err(broken)
    }
}

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64())
}

/// TLS that trusts what `ca` vouches for, and nobody else.
fn trusting(ca: &str) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
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
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}
