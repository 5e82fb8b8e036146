//! A mesh without a cluster: authority and certificates in a folder.
//!
//! ```text
//! ca.pem, ca.key                     the authority
//! operator/{ca.pem, identity.pem}    who holds the ledger: `venom run --mesh`
//! node-1/{ca.pem, identity.pem}      a node: `venom node`
//! ```
//!
//! A node's folder is all it needs and may be copied to another machine; `ca.key` stays where it is.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::source::{NoCertificate, read as read_file};
use crate::mesh::identity::{Authority, Credentials, IdentityError, generate_key_and_csr};
use crate::mesh::spiffe::Identity;

/// The installation and the organism that a folder's names belong to. Its authority is its own, so that
/// folders do not meet.
const TRUST_DOMAIN: &str = "venom";
const ORGANISM: &str = "local";

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const IDENTITY: &str = "identity.pem";
/// The folder of the one who holds the ledger.
pub const OPERATOR: &str = "operator";

/// A folder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A certificate could not be made, or what is there cannot be read.
    #[error("{0}: {1}; name another folder, or remove it and make it anew")]
    Certificate(String, IdentityError),
}

/// Makes an authority in `folder`, unless there is one, and certificates for the operator and `nodes` nodes,
/// good for `life`. What is there already gets new certificates of the same names; who uses them takes them up
/// by itself.
///
/// # Errors
/// [`FolderError`].
pub fn init(folder: &Path, nodes: u32, life: Duration) -> Result<(), FolderError> {
    let now = SystemTime::now();
    let wrong = |error| FolderError::Certificate(folder.display().to_string(), error);
    make(folder)?;
    let (ca, key) = (folder.join(CA), folder.join(CA_KEY));
    let authority = if key.exists() {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| FolderError::Io(path.display().to_string(), error))
        };
        Authority::from_pem(&read(&ca)?, &read(&key)?).map_err(wrong)?
    } else {
        let authority = Authority::new(TRUST_DOMAIN, now).map_err(wrong)?;
        // The key comes last: without it there is no authority yet.
        write(&ca, authority.ca_pem(), 0o644)?;
        write(&key, &authority.key_pem(), 0o600)?;
        authority
    };
    let operator = Identity::operator(TRUST_DOMAIN).map(|it| (OPERATOR.to_owned(), it));
    let pods = (1..=nodes).map(|number| {
        let name = format!("node-{number}");
        Identity::pod(TRUST_DOMAIN, ORGANISM, &name).map(|it| (name, it))
    });
    for named in std::iter::once(operator).chain(pods) {
        let (name, identity) = named.map_err(|_| wrong(IdentityError::NoMeshIdentity))?;
        let place = folder.join(name);
        make(&place)?;
        let (key, request) = generate_key_and_csr().map_err(wrong)?;
        let certificate = authority.sign(&request, &identity, now, life).map_err(wrong)?;
        write(&place.join(CA), authority.ca_pem(), 0o644)?;
        // Key and certificate are one file, replaced at once: nobody reads one without the other.
        write(&place.join(IDENTITY), &format!("{certificate}{key}"), 0o600)?;
    }
    Ok(())
}

fn make(folder: &Path) -> Result<(), FolderError> {
    fs::create_dir_all(folder).map_err(|error| FolderError::Io(folder.display().to_string(), error))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), FolderError> {
    let temp = path.with_extension("tmp");
    let all = || -> io::Result<()> {
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(mode).open(&temp)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&temp, path)
    };
    all().map_err(|error| FolderError::Io(path.display().to_string(), error))
}

/// The certificate in a node's folder, or the operator's.
pub(super) fn read(folder: &Path) -> Result<Credentials, NoCertificate> {
    let (ca, identity) = (read_file(&folder.join(CA))?, read_file(&folder.join(IDENTITY))?);
    Credentials::from_pem(&ca, &identity, &identity, Some(ORGANISM))
        .map_err(|error| NoCertificate { what: folder.display().to_string(), why: error.to_string() })
}
