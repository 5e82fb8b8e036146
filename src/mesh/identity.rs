//! Certificates: who may take part in a mesh, and how they prove it.
//!
//! An installation has one [`Authority`]. A node makes its key itself and sends a signing request; the
//! authority takes the public key out of it and nothing else: who that is, the authority says. What a peer is
//! called comes from its certificate alone.
//!
//! Sessions are never resumed: a resumed session would not look at the certificate again.

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

use super::name::Identity;

/// How long a certificate of a node is good.
pub const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A certificate is good from so long before it was signed: clocks differ.
const EARLIER: Duration = Duration::from_secs(300);
/// How long an authority is good.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What is wrong with a certificate, a key or a request.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be made or read.
    #[error("{0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS does not take it.
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    /// Not the text that was expected.
    #[error("no {0} in PEM form")]
    Pem(&'static str),
    /// Signatures made with this key would not be this certificate's.
    #[error("the key is another certificate's")]
    OtherKey,
    /// A certificate that names nobody of a mesh.
    #[error(
        "the certificate names nobody of a mesh: it needs exactly one URI, spiffe://DOMAIN/operator or spiffe://DOMAIN/org/UID/pod/UID"
    )]
    Nobody,
    /// The operator takes part in one organism's mesh at a time.
    #[error("the certificate is the operator's: say which organism's mesh it is to join")]
    WhichOrganism,
}

/// The certificate authority of an installation.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

impl Authority {
    /// A new one, good for ten years from `now`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn new(trust_domain: &str, now: SystemTime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&format!("VENOM mesh of {trust_domain}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, now, AUTHORITY_LIFE);
        let ca_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), ca_pem })
    }

    /// One that was stored: its certificate and its key, both in PEM form.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(ca_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let certificate = CertificateDer::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| IdentityError::Pem("certificate"))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        if certificate.public_key().subject_public_key.data != issuer.key().public_key_raw() {
            return Err(IdentityError::OtherKey);
        }
        Ok(Self { issuer, ca_pem: ca_pem.to_owned() })
    }

    /// Its certificate in PEM form: what peers trust.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Its key in PEM form. A secret.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate in PEM form, good for `life` from `now`, for the key of the signing request `csr_pem`.
    /// The request's signature is checked; the names in it are not looked at.
    ///
    /// # Errors
    /// [`IdentityError`] when the request cannot be read or was not signed with its key.
    pub fn sign(
        &self,
        csr_pem: &str,
        identity: &Identity,
        now: SystemTime,
        life: Duration,
    ) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name("VENOM mesh");
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, life);
        Ok(params.signed_by(&request.public_key, &self.issuer)?.pem())
    }

    /// A certificate and its key, both in PEM form, for a server of these DNS names: what nodes ask for
    /// certificates. Nobody of a mesh.
    ///
    /// # Errors
    /// [`IdentityError`] when a name is none.
    pub fn server(
        &self,
        names: &[&str],
        now: SystemTime,
        life: Duration,
    ) -> Result<(String, String), IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = common_name("VENOM operator");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, now, life);
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn valid(params: &mut CertificateParams, now: SystemTime, life: Duration) {
    let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_1970(now - EARLIER);
    params.not_after = epoch + since_1970(now + life);
}

/// A new key, and the request to sign it. Both in PEM form; the key never leaves who made it.
///
/// # Errors
/// [`IdentityError`].
pub fn new_key() -> Result<(String, String), IdentityError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("VENOM mesh");
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// Proof of who one is, ready for handshakes in both directions.
#[derive(Clone)]
pub struct Credentials {
    /// Who this is.
    pub identity: Identity,
    /// The UID of the organism whose mesh this is for.
    pub organism: String,
    /// From when on the certificate is good.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
    /// TLS for those who dial.
    pub server: Arc<ServerConfig>,
    /// TLS to dial with.
    pub client: Arc<ClientConfig>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Credentials({}, until {:?})", self.identity, self.not_after)
    }
}

impl Credentials {
    /// From what an authority gave, all in PEM form. A pod meets its own organism's pods and the operator;
    /// the operator meets the pods of `organism`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(
        ca_pem: &str,
        certificate_pem: &str,
        key_pem: &str,
        organism: Option<&str>,
    ) -> Result<Self, IdentityError> {
        let read = |pem: &str| -> Result<Vec<CertificateDer<'static>>, IdentityError> {
            let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
            found.ok().filter(|it| !it.is_empty()).ok_or(IdentityError::Pem("certificate"))
        };
        let mut roots = RootCertStore::empty();
        for ca in read(ca_pem)? {
            roots.add(ca)?;
        }
        let chain = read(certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| IdentityError::Pem("key"))?;
        let told = chain.first().and_then(Told::by).ok_or(IdentityError::Nobody)?;
        let organism = told.identity.organism().or(organism).ok_or(IdentityError::WhichOrganism)?.to_owned();

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(roots, &told.identity, &organism, provider.clone())?);
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
        let Told { identity, not_before, not_after } = told;
        Ok(Self { identity, organism, not_before, not_after, server: server.into(), client: client.into() })
    }

    /// When to get the next certificate: after a third of this one's life, 8 h of 24.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 3
    }
}

/// What a certificate says of its owner.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) identity: Identity,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Told {
    /// Nothing where the certificate names nobody of a mesh, or more than one.
    pub(super) fn by(certificate: &CertificateDer<'_>) -> Option<Self> {
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

/// Takes certificates of one authority that name a pod of one organism, or the operator; the operator takes
/// pods only.
#[derive(Debug)]
struct Verifier {
    chain: Arc<dyn ClientCertVerifier>,
    roots: RootCertStore,
    trust_domain: String,
    organism: String,
    operators: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
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
            operators: !own.is_operator(),
            provider,
        })
    }

    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let told = Told::by(certificate).map(|told| told.identity);
        let admitted = told.is_some_and(|it| {
            let ours = it.organism().map_or(self.operators, |organism| organism == self.organism);
            ours && it.trust_domain() == self.trust_domain
        });
        let refused = || CertificateError::Other(OtherError(Arc::new(NotOfThisMesh)));
        if admitted { Ok(()) } else { Err(rustls::Error::InvalidCertificate(refused())) }
    }
}

/// The certificate is good, its owner has no business here.
#[derive(Debug, thiserror::Error)]
#[error("not of this mesh")]
pub(super) struct NotOfThisMesh;

impl ClientCertVerifier for Verifier {
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
        self.admit(end_entity)?;
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

impl ServerCertVerifier for Verifier {
    /// The name that was dialled means nothing here: an address of a pod belongs to the next one tomorrow.
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
        self.admit(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("the mesh speaks TLS 1.3 only".into()))
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
