//! The certificate authority (CA) of an installation, which signs the certificates of all its meshes.
//!
//! Its private key is stored only in one Secret of the operator's own namespace, because anyone who has it can
//! impersonate any node and the operator. The operator creates the Secret and never updates it.
//!
//! A ConfigMap beside it records the CA's certificate. If the Secret is lost, the operator that runs creates it again from
//! memory. One that starts has to create a new CA; from the record it knows the old certificate, and both are trusted
//! until the certificates that the old CA has signed have ended. So the mesh does not split.

mod record;
pub mod watch;

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

use self::record::Previous;
use super::call::{CallError, call};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER};
use crate::mesh::identity::{Authority, CERTIFICATE_LIFETIME, IdentityError, generate_key_and_csr};
use crate::mesh::{Credentials, Identity};

/// Trust domain of all SPIFFE IDs that the CA signs.
pub const TRUST_DOMAIN: &str = "venom";
/// Name of the Secret with the CA's certificate and private key.
pub const CA_SECRET: &str = "venom-mesh-ca";
/// Key of the certificate in the Secret's data.
const CERTIFICATE: &str = "ca.pem";
/// Key of the private key in the Secret's data.
const KEY: &str = "ca.key";
/// How long the operator reuses a certificate of its own. Shorter than the time until [`Credentials::renew_at`], so
/// that a caller that renews at that time gets a new certificate.
const REUSE_PERIOD: Duration = Duration::from_secs(6 * 3600);

/// The CA cannot be loaded or created.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The Secret cannot be read or created.
    #[error(
        "cannot load the certificate authority: {0}; the operator needs the rights to get and create this Secret"
    )]
    Call(#[from] CallError),
    /// The Secret does not contain a valid CA.
    #[error(
        "{secret}: {reason}; restore {CERTIFICATE} and {KEY}, or delete it: the operator then creates a new certificate \
         authority"
    )]
    Invalid {
        /// Kind, namespace and name of the Secret.
        secret: String,
        /// What is wrong with its data.
        reason: String,
    },
    /// A new CA cannot be generated.
    #[error("cannot generate a certificate authority: {0}")]
    New(#[from] IdentityError),
}

/// Signs certificates with the key of the CA.
pub struct Certificates {
    authority: Authority,
    /// Earlier CAs that are still trusted.
    previous: Option<Previous>,
    /// Why there is a new CA, if the Secret of an earlier one was lost.
    lost: Option<String>,
    operator: CachedCertificate<(String, String)>,
}

impl Certificates {
    /// Signs with the key of `authority`.
    #[must_use]
    pub fn new(authority: Authority) -> Self {
        Self { authority, previous: None, lost: None, operator: CachedCertificate::default() }
    }

    /// Loads the CA from the Secret in the operator's `namespace`, or creates the Secret if it does not exist.
    ///
    /// # Errors
    /// [`AuthorityError`] if an API call fails or the Secret is invalid; an invalid Secret is left unchanged.
    pub async fn load(client: Client, namespace: &str) -> Result<Self, AuthorityError> {
        let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let object = format!("Secret {namespace}/{CA_SECRET}");
        let (stored, found) = match call("get", &object, secrets.get_opt(CA_SECRET)).await? {
            Some(stored) => (stored, true),
            None => {
                let secret = ca_secret(&Authority::new(TRUST_DOMAIN, SystemTime::now())?);
                match call("create", &object, secrets.create(&PostParams::default(), &secret)).await {
                    Ok(created) => {
                        tracing::info!(object, "created a certificate authority");
                        (created, false)
                    }
                    // Another operator has created it in the meantime; all operators use the same CA.
                    Err(error) if error.is_conflict() => {
                        (call("get", &object, secrets.get(CA_SECRET)).await?, true)
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let authority =
            parse_authority(&stored).map_err(|reason| AuthorityError::Invalid { secret: object, reason })?;
        // Without the record everything works, until the Secret is lost.
        let previous = record::update(client, namespace, authority.ca_pem()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot record the certificate of the certificate authority");
            None
        });
        let lost = previous.as_ref().filter(|_| !found).map(|_| {
            format!(
                "Secret {namespace}/{CA_SECRET} was lost. A new certificate authority was created; the old one is \
                 trusted for another 24 h, and nodes get new certificates within minutes. Back this Secret up."
            )
        });
        Ok(Self { previous, lost, ..Self::new(authority) })
    }

    /// The certificates that nodes trust in PEM form: that of the CA, and those of earlier ones for a while.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        let previous = self.previous.as_ref().filter(|it| SystemTime::now() < it.until);
        match previous {
            Some(previous) => format!("{}\n{}", self.authority.ca_pem().trim_end(), previous.pem),
            None => self.authority.ca_pem().to_owned(),
        }
    }

    /// Why there is a new CA, if the Secret was lost before the start.
    #[must_use]
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// The Secret as this CA needs it.
    pub(super) fn secret(&self) -> Secret {
        ca_secret(&self.authority)
    }

    /// Signs a certificate for `identity` and the public key of the signing request; both in PEM form.
    ///
    /// # Errors
    /// [`IdentityError`] if the request cannot be parsed or its signature does not match its public key.
    pub fn sign(&self, csr_pem: &str, identity: &Identity) -> Result<String, IdentityError> {
        self.authority.sign(csr_pem, identity, SystemTime::now(), CERTIFICATE_LIFETIME)
    }

    /// Returns the credentials with which the operator joins the mesh of the Organism with this UID. All meshes share
    /// one key and certificate. Call again at [`Credentials::renew_at`].
    ///
    /// # Errors
    /// [`IdentityError`] if no key or certificate can be generated.
    pub fn operator_credentials(&self, organism_uid: &str) -> Result<Credentials, IdentityError> {
        self.operator_credentials_at(SystemTime::now(), organism_uid)
    }

    fn operator_credentials_at(
        &self,
        now: SystemTime,
        organism_uid: &str,
    ) -> Result<Credentials, IdentityError> {
        let (certificate, key) = self.operator.get_or_create(now, || {
            let identity = Identity::operator(TRUST_DOMAIN).map_err(|_| IdentityError::NoMeshIdentity)?;
            let (key, request) = generate_key_and_csr()?;
            Ok((self.authority.sign(&request, &identity, now, CERTIFICATE_LIFETIME)?, key))
        })?;
        Credentials::from_pem(&self.ca_pem(), &certificate, &key, Some(organism_uid))
    }

    /// Returns a TLS 1.3 configuration with a new server certificate for `host`, a DNS name or an IP address. Clients
    /// authenticate by token, so it requests no client certificate.
    pub(super) fn server_config(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<Arc<ServerConfig>, IdentityError> {
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
        // A node connects once in 8 h, so resumption would save nothing.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The Secret is immutable, so that the API server rejects accidental edits.
fn ca_secret(authority: &Authority) -> Secret {
    let data = [(CERTIFICATE, authority.ca_pem().to_owned()), (KEY, authority.key_pem())];
    let labels = [(MANAGED_BY_LABEL, MANAGER), ("app.kubernetes.io/part-of", MANAGER)];
    Secret {
        metadata: ObjectMeta {
            name: Some(CA_SECRET.into()),
            labels: Some(labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data.into_iter().map(|(name, text)| (name.into(), ByteString(text.into()))).collect()),
        immutable: Some(true),
        string_data: None,
    }
}

/// Parses the data of the Secret. The error says what is wrong with it.
fn parse_authority(secret: &Secret) -> Result<Authority, String> {
    let text = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name));
        let bytes = bytes.ok_or_else(|| format!("it has no key {name}"))?;
        std::str::from_utf8(&bytes.0).map_err(|_| format!("{name} is not UTF-8"))
    };
    Authority::from_pem(text(CERTIFICATE)?, text(KEY)?).map_err(|error| error.to_string())
}

/// A certificate of the operator's own, reused for [`REUSE_PERIOD`].
///
/// It is also replaced if the clock was set back to before its creation, since it might not be valid yet.
pub(super) struct CachedCertificate<T>(Mutex<Option<(Range<SystemTime>, T)>>);

impl<T> Default for CachedCertificate<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> CachedCertificate<T> {
    /// Returns the cached certificate, or the result of `create` if there is none to reuse at `now`.
    pub(super) fn get_or_create(
        &self,
        now: SystemTime,
        create: impl FnOnce() -> Result<T, IdentityError>,
    ) -> Result<T, IdentityError> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((period, it)) if period.contains(&now) => Ok(it.clone()),
            _ => {
                let it = create()?;
                *cached = Some((now..now + REUSE_PERIOD, it.clone()));
                Ok(it)
            }
        }
    }
}

#[cfg(test)]
mod tests;
