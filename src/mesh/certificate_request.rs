//! The HTTP exchange by which a node obtains its certificate: JSON bodies of the request and the response.
//!
//! The node sends them (`node`), the operator's issuer answers them; both sides share these types.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a node waits for the issuer, from the connection to the response. The issuer takes less at most.
pub const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Body of the POST to the issuer. The pod's token is in the `Authorization` header.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateRequest {
    /// Certificate signing request (PKCS #10), PEM. Only its public key is used.
    pub csr: String,
}

/// Body of the issuer's response with status 200.
#[derive(Debug, Serialize, Deserialize)]
pub struct CertificateResponse {
    /// The signed certificate, PEM.
    pub certificate: String,
}
