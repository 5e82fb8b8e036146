//! A mesh without a cluster: CA and certificates in a directory.
//!
//! ```text
//! ca.pem, ca.key                     the CA
//! operator/{ca.pem, identity.pem}    the collector: `venom run --mesh`
//! node-1/{ca.pem, identity.pem}      a node: `venom node`
//! ```
//!
//! A node's subdirectory is all that it needs and may be copied to another machine. `ca.key` stays where it is.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::certificate_source::{CertificateUnavailable, read_file};
use crate::files;
use crate::mesh::identity::{Authority, Credentials, IdentityError, generate_key_and_csr};
use crate::mesh::spiffe::Identity;

/// Trust domain and organism of all identities here. They may be the same in every directory, because each has a
/// CA of its own.
const TRUST_DOMAIN: &str = "venom";
const ORGANISM: &str = "local";

const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
/// Certificate and private key.
const IDENTITY: &str = "identity.pem";
/// Name of the collector's subdirectory.
pub const OPERATOR_DIRECTORY: &str = "operator";

/// A mesh directory cannot be created or renewed.
#[derive(Debug, thiserror::Error)]
pub enum MeshDirectoryError {
    /// A file or directory cannot be read or written.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A certificate cannot be generated, or the CA cannot be loaded.
    #[error("{0}: {1}; use another directory, or delete this one to start over")]
    Certificate(String, IdentityError),
}

/// Creates a CA in `directory`, unless there is one, and certificates for the operator and `nodes` nodes, valid for
/// `lifetime`.
///
/// Existing certificates are replaced by new ones of the same identity, which running processes pick up.
///
/// # Errors
/// [`MeshDirectoryError`].
pub fn init(directory: &Path, nodes: u32, lifetime: Duration) -> Result<(), MeshDirectoryError> {
    let now = SystemTime::now();
    let certificate_error = |error| MeshDirectoryError::Certificate(directory.display().to_string(), error);
    create_directory(directory)?;
    let (ca, key) = (directory.join(CA_CERTIFICATE), directory.join(CA_KEY));
    let authority = if key.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path)
                .map_err(|error| MeshDirectoryError::Io(path.display().to_string(), error))
        };
        Authority::from_pem(&read(&ca)?, &read(&key)?).map_err(certificate_error)?
    } else {
        let authority = Authority::new(TRUST_DOMAIN, now).map_err(certificate_error)?;
        // The key last: its presence means that the CA is complete.
        write(&ca, authority.ca_pem(), 0o644)?;
        write(&key, &authority.key_pem(), 0o600)?;
        authority
    };
    let operator = Identity::operator(TRUST_DOMAIN).map(|it| (OPERATOR_DIRECTORY.to_owned(), it));
    let pods = (1..=nodes).map(|number| {
        let name = format!("node-{number}");
        Identity::pod(TRUST_DOMAIN, ORGANISM, &name).map(|it| (name, it))
    });
    for member in std::iter::once(operator).chain(pods) {
        let (name, identity) = member.map_err(|_| certificate_error(IdentityError::NoMeshIdentity))?;
        let subdirectory = directory.join(name);
        create_directory(&subdirectory)?;
        let (key, request) = generate_key_and_csr().map_err(certificate_error)?;
        let certificate = authority.sign(&request, &identity, now, lifetime).map_err(certificate_error)?;
        write(&subdirectory.join(CA_CERTIFICATE), authority.ca_pem(), 0o644)?;
        // Certificate and key in one file, so that a reader never gets a mismatched pair.
        write(&subdirectory.join(IDENTITY), &format!("{certificate}{key}"), 0o600)?;
    }
    Ok(())
}

fn create_directory(path: &Path) -> Result<(), MeshDirectoryError> {
    fs::create_dir_all(path).map_err(|error| MeshDirectoryError::Io(path.display().to_string(), error))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), MeshDirectoryError> {
    files::replace(path, text.as_bytes(), mode)
        .map_err(|error| MeshDirectoryError::Io(path.display().to_string(), error))
}

/// Loads the credentials in the subdirectory of a node or of the operator.
pub(super) fn read_credentials(subdirectory: &Path) -> Result<Credentials, CertificateUnavailable> {
    let ca = read_file(&subdirectory.join(CA_CERTIFICATE))?;
    let identity = read_file(&subdirectory.join(IDENTITY))?;
    Credentials::from_pem(&ca, &identity, &identity, Some(ORGANISM))
        .map_err(|error| CertificateUnavailable::new(&subdirectory.display(), &error))
}
