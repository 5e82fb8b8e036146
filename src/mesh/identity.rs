//! Mesh certificates: the certificate authority, a peer's credentials, and the verification of other peers.
//!
//! An installation has one [`Authority`]. A node generates its own key and sends a signing request. The authority
//! uses the public key of the request and nothing else: the caller decides which identity it certifies. A peer's
//! identity comes from its certificate alone.
//!
//! TLS session resumption is off, because a resumed session would skip the check of the certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName as RawName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};

use super::clock;
use super::spiffe::Identity;

/// Validity of a peer's certificate.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from this long before they were signed, because clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);
/// Validity of a CA certificate.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A certificate, key or signing request cannot be created or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be generated or parsed.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
    /// rustls rejects it.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// The text contains no PEM block of the expected kind.
    #[error("no {0} in PEM form")]
    InvalidPem(&'static str),
    /// The private key and the certificate's public key are not a pair.
    #[error("the private key does not match the certificate")]
    KeyMismatch,
    /// The certificate has no subject alternative name that is a mesh identity, or more than one.
    #[error(
        "the certificate has no mesh identity; it needs exactly one URI, spiffe://DOMAIN/operator or spiffe://DOMAIN/org/UID/pod/UID"
    )]
    NoMeshIdentity,
    /// The operator's certificate is valid in every mesh, so the caller has to choose one.
    #[error("the certificate is the operator's; name the organism whose mesh it joins")]
    OrganismRequired,
}

/// The certificate authority of an installation.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// Generates a CA, valid for ten years from `now`.
    ///
    /// # Errors
    /// [`IdentityError`] if the key or the certificate cannot be generated.
    pub fn new(trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("VENOM mesh of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, AUTHORITY_LIFETIME);
        let ca_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), ca_pem })
    }

    /// Loads a CA from its certificate and its private key, both PEM.
    ///
    /// # Errors
    /// [`IdentityError`] if one cannot be parsed or they are not a pair.
    pub fn from_pem(ca_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let certificate = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| IdentityError::InvalidPem("certificate"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        if certificate.public_key().subject_public_key.data != issuer.key().public_key_raw() {
            return Err(IdentityError::KeyMismatch);
        }
        Ok(Self { issuer, ca_pem: ca_pem.to_owned() })
    }

    /// The CA certificate, PEM: the trust anchor of all peers.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA's private key, PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a certificate for `identity` and the public key of the signing request `csr_pem`, valid for
    /// `lifetime` from `now`. Returns it as PEM.
    ///
    /// The request's signature is checked. Its names and extensions are ignored: they are the client's claim.
    ///
    /// # Errors
    /// [`IdentityError`] if the request cannot be parsed or was not signed with its own key.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &Identity,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("VENOM mesh");
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, lifetime);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// Generates a key and a certificate for an HTTPS server with these DNS names: the issuer, which nodes trust
    /// by the same CA. Returns certificate and key as PEM. The certificate has no mesh identity, so no peer
    /// accepts it.
    ///
    /// # Errors
    /// [`IdentityError`] if a name is not a valid DNS name.
    pub fn server_certificate(
        &self,
        names: &[&str],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<(String, String), IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = common_name("VENOM operator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, now, lifetime);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let since_epoch = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(now - BACKDATE);
    params.not_after = epoch + since_epoch(now + lifetime);
}

/// Generates a private key and a certificate signing request for it, both PEM.
///
/// # Errors
/// [`IdentityError`] if the key cannot be generated.
pub fn generate_key_and_csr() -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("VENOM mesh");
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// A peer's certificate and private key, as TLS configurations for both directions.
#[derive(Clone)]
pub struct Credentials {
    /// The identity in the certificate.
    pub identity: Identity,
    /// UID of the organism whose mesh the credentials are for.
    pub organism: String,
    /// Start of the certificate's validity.
    pub not_before: SystemTime,
    /// End of the certificate's validity.
    pub not_after: SystemTime,
    /// TLS configuration for inbound connections.
    pub server: Arc<ServerConfig>,
    /// TLS configuration for outbound connections.
    pub client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials({}, until {:?})", self.identity, self.not_after)
    }
}

impl Credentials {
    /// Loads credentials from the CA certificates, the peer's certificate and its private key, all PEM.
    ///
    /// With them, a pod accepts pods of its own organism and the operator; the operator accepts pods of
    /// `organism`, which is ignored for a pod.
    ///
    /// # Errors
    /// [`IdentityError`] if a part cannot be parsed or used, or an operator's organism is missing.
    pub fn from_pem(
        ca_pem: &str,
        certificate_pem: &str,
        key_pem: &str,
        organism: Option<&str>,
    ) -> Result<Self, IdentityError> {
        let parse = |pem: &str| -> Result<Vec<CertificateDer<'static>>, IdentityError> {
            let parsed = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            parsed.ok().filter(|it| !it.is_empty()).ok_or(IdentityError::InvalidPem("certificate"))
        };
        let mut roots = RootCertStore::empty();
        for ca in parse(ca_pem)? {
            roots.add(ca)?;
        }
        let chain = parse(certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| IdentityError::InvalidPem("key"))?;
        let info = chain.first().and_then(CertificateInfo::parse).ok_or(IdentityError::NoMeshIdentity)?;
        let organism =
            info.identity.organism().or(organism).ok_or(IdentityError::OrganismRequired)?.to_owned();

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(PeerVerifier::new(roots, &info.identity, &organism, provider.clone())?);
        let versions = &[&rustls::version::TLS13];
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(chain.clone(), key.clone_key())?;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key)?;
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let CertificateInfo { identity, not_before, not_after } = info;
        Ok(Self { identity, organism, not_before, not_after, server: server.into(), client: client.into() })
    }

    /// When to renew: after a third of the lifetime, which leaves two thirds (16 h of 24) for an issuer outage.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + lifetime / 3
    }

    /// Whether to renew at `now`: from [`Self::renew_at`] on, and before `not_before`, where the clock was set back since.
    ///
    /// # Errors
    /// How long the credentials are good from `now` on.
    pub fn renewal_due(&self, now: SystemTime) -> Result<(), Duration> {
        if now < self.not_before { Ok(()) } else { clock::reached(self.renew_at(), now) }
    }
}

/// The identity and the validity of a certificate.
#[derive(Debug)]
pub(super) struct CertificateInfo {
    pub(super) identity: Identity,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl CertificateInfo {
    /// Returns `None` unless the certificate has exactly one subject alternative name and that is a mesh identity.
    pub(super) fn parse(certificate: &CertificateDer<'_>) -> Option<Self> {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let [GeneralName::URI(uri)] = names.value.general_names[..] else { return None };
        let time = |at: x509_parser::time::ASN1Time| {
            u64::try_from(at.timestamp()).ok().map(|at| SystemTime::UNIX_EPOCH + Duration::from_secs(at))
        };
        Some(Self {
            identity: uri.parse().ok()?,
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
        })
    }
}

/// Accepts certificates of one CA whose identity is a pod of one organism, or the operator. For the operator
/// itself: pods only, because two operators have nothing to exchange.
#[derive(Debug)]
struct PeerVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: RootCertStore,
    trust_domain: String,
    organism: String,
    accepts_operator: bool,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    fn new(
        roots: RootCertStore,
        own: &Identity,
        organism: &str,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::Error> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(Self {
            chain,
            roots,
            trust_domain: own.trust_domain().to_owned(),
            organism: organism.to_owned(),
            accepts_operator: !own.is_operator(),
            provider,
        })
    }

    /// Checks the identity in a certificate whose chain was verified.
    fn authorize(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let identity = CertificateInfo::parse(certificate).map(|info| info.identity);
        let allowed = identity.is_some_and(|it| {
            let in_mesh = it.organism().map_or(self.accepts_operator, |organism| organism == self.organism);
            in_mesh && it.trust_domain() == self.trust_domain
        });
        let not_allowed = || CertificateError::Other(OtherError(Arc::new(IdentityNotAllowed)));
        if allowed { Ok(()) } else { Err(rustls::Error::InvalidCertificate(not_allowed())) }
    }
}

/// The certificate is valid, but its identity may not join this mesh.
#[derive(Debug, thiserror::Error)]
#[error("the certificate's identity is not in this mesh")]
pub(super) struct IdentityNotAllowed;

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[RawName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.authorize(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for PeerVerifier {
    /// Ignores the server name: peers are dialled by IP address, and pod addresses are reused.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms,
        )?;
        self.authorize(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("the mesh supports TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
