//! The certificate authority of an installation, which signs the certificates of all its meshes.
//!
//! Its key is stored in one Secret of the operator's own namespace and nowhere else: with it one can pose as any
//! node and as the operator. The Secret is created once and never written again: with another authority, nodes
//! that start later could not talk to those that run.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

use super::call::{CallError, call};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER};
use crate::mesh::identity::{Authority, CERTIFICATE_LIFETIME, IdentityError, generate_key_and_csr};
use crate::mesh::{Credentials, Identity};

/// What comes before an organism's UID in every name.
pub const TRUST_DOMAIN: &str = "venom";
/// The Secret.
pub const SECRET: &str = "venom-mesh-ca";
/// Its keys.
const CERTIFICATE: &str = "ca.pem";
const KEY: &str = "ca.key";
/// How long a certificate of the operator's own is handed out. Less than until [`Credentials::renew_at`]: who
/// asks then gets a new one.
const HANDED_OUT: Duration = Duration::from_secs(6 * 3600);

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret could not be read or made.
    #[error("the authority of node certificates: {0}; the operator needs to get and create this Secret")]
    Call(#[from] CallError),
    /// What is there is no authority.
    #[error(
        "{secret}: {why}; put back {CERTIFICATE} and {KEY} as they were, or delete it and have every node pod \
         replaced: a new authority is made then"
    )]
    Unreadable {
        /// The Secret.
        secret: String,
        /// What is wrong with it.
        why: String,
    },
    /// A new one could not be made.
    #[error("a new authority of node certificates: {0}")]
    New(#[from] IdentityError),
}

/// Signs certificates.
pub struct Certificates {
    authority: Authority,
    operator: Renewed<(String, String)>,
}

impl Certificates {
    /// Of an authority.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self { authority, operator: Renewed::default() }
    }

    /// Reads the authority of the operator's `namespace`, or makes it where there is none.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub async fn load(client: Client, namespace: &str) -> Result<Self, AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client, namespace);
        let object = format!("Secret {namespace}/{SECRET}");
        let found = match call("get", &object, secrets.get_opt(SECRET)).await? {
            Some(found) => found,
            None => {
                let new = secret(&Authority::new(TRUST_DOMAIN, SystemTime::now())?);
                match call("create", &object, secrets.create(&PostParams::default(), &new)).await {
                    Ok(made) => {
                        tracing::info!(object, "a new authority of node certificates");
                        made
                    }
                    // Another operator was faster: there is one authority, and that is its.
                    Err(error) if error.is_conflict() => call("get", &object, secrets.get(SECRET)).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        read(&found).map(Self::new).map_err(|why| AuthorityError::Unreadable { secret: object, why })
    }

    /// Its certificate in PEM form: what nodes trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.ca_pem()
    }

    /// A certificate in PEM form for the key of the signing request `csr_pem`, in the name of `identity`.
    ///
    /// # Errors
    /// [`IdentityError`] when the request cannot be read or was not signed with its key.
    pub fn sign(&self, csr_pem: &str, identity: &Identity) -> Result<String, IdentityError> {
        self.authority.sign(csr_pem, identity, SystemTime::now(), CERTIFICATE_LIFETIME)
    }

    /// By which the operator joins the mesh of the Organism with this UID. One key serves for all organisms:
    /// ask again at [`Credentials::renew_at`].
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn operator_credentials(&self, organism_uid: &str) -> Result<Credentials, IdentityError> {
        self.operator_at(SystemTime::now(), organism_uid)
    }

    fn operator_at(&self, now: SystemTime, organism_uid: &str) -> Result<Credentials, IdentityError> {
        let (certificate, key) = self.operator.get(now, || {
            let identity = Identity::operator(TRUST_DOMAIN).map_err(|_| IdentityError::NoMeshIdentity)?;
            let (key, request) = generate_key_and_csr()?;
            Ok((self.authority.sign(&request, &identity, now, CERTIFICATE_LIFETIME)?, key))
        })?;
        Credentials::from_pem(self.ca_pem(), &certificate, &key, Some(organism_uid))
    }

    /// TLS for a server of this host, a DNS name or an address, that asks its clients for no certificate.
    pub(super) fn server(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, IdentityError> {
        let (certificate, key) = self.authority.server_certificate(&[host], now, CERTIFICATE_LIFETIME)?;
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| IdentityError::InvalidPem("certificate"))?;
        let key =
            PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|_| IdentityError::InvalidPem("key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        // A client comes once in 8 h.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Immutable: who edits it by mistake is told by the API server.
fn secret(authority: &Authority) -> Secret {
    let data = [(CERTIFICATE, authority.ca_pem().to_owned()), (KEY, authority.key_pem())];
    let labels = [(MANAGED_BY_LABEL, MANAGER), ("app.kubernetes.io/part-of", MANAGER)];
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.into()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data.into_iter().map(|(name, text)| (name.into(), ByteString(text.into()))).collect()),
        immutable: Some(true),
        string_data: None,
    }
}

fn read(secret: &Secret) -> Result<Authority, String> {
    let text = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        let bytes = bytes.ok_or_else(|| format!("it has no {name}"))?;
        std::str::from_utf8(&bytes.0).map_err(|_| format!("{name} is no text"))
    };
    Authority::from_pem(text(CERTIFICATE)?, text(KEY)?).map_err(|error| error.to_string())
}

/// What is signed for the operator itself, handed out for a while. It is made anew as well when the clock is
/// found to be before the time it was made at.
pub(super) struct Renewed<T>(Mutex<Option<(Range<SystemTime>, T)>>);

impl<T> Default for Renewed<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Renewed<T> {
    pub(super) fn get(
        &self,
        now: SystemTime,
        make: impl FnOnce() -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((good, it)) if good.contains(&now) => Ok(it.clone()),
            _ => {
                let it = make()?;
                *made = Some((now..now + HANDED_OUT, it.clone()));
                Ok(it)
            }
        }
    }
}

#[cfg(test)]
mod tests;
