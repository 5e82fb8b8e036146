//! Where nodes ask for certificates.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use rustls::pki_types::ServerName;

/// The issuer's only path.
pub const PATH: &str = "/v1/certificates";

/// `https://HOST:PORT/v1/certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    /// A DNS name or an address, for which the issuer's own certificate is made.
    pub host: String,
    /// Where the issuer listens.
    pub port: u16,
}

/// Why a text is no [`Url`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write https://HOST:PORT{PATH}, such as https://venom.venom-system.svc:8443{PATH}")]
pub struct NoUrl;

impl FromStr for Url {
    type Err = NoUrl;

    fn from_str(text: &str) -> Result<Self, NoUrl> {
        let uri: Uri = text.parse().map_err(|_| NoUrl)?;
        let host = uri.host().ok_or(NoUrl)?;
        let port = uri.port_u16().filter(|&port| port > 0).ok_or(NoUrl)?;
        // Nothing but these parts: no user, no query, no other path.
        let whole = format!("https://{host}:{port}{PATH}");
        let host = host.trim_matches(['[', ']']).to_owned();
        let right = whole == text && ServerName::try_from(host.as_str()).is_ok();
        if right { Ok(Self { text: whole, host, port }) } else { Err(NoUrl) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_host_port_and_path() {
        for (text, host, port) in [
            ("https://venom.venom-system.svc:8443/v1/certificates", "venom.venom-system.svc", 8443),
            ("https://127.0.0.1:1/v1/certificates", "127.0.0.1", 1),
            ("https://[::1]:8443/v1/certificates", "::1", 8443),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.port, url.to_string().as_str()), (host, port, text));
        }
        for text in [
            "",
            "venom:8443",
            "http://venom:8443/v1/certificates",
            "https://venom/v1/certificates",
            "https://venom:0/v1/certificates",
            "https://venom:8443",
            "https://venom:8443/v1/certificates/",
            "https://venom:8443/v1/certificates?a=b",
            "https://a@venom:8443/v1/certificates",
            "https://ve nom:8443/v1/certificates",
            "https://-:8443/v1/certificates",
        ] {
            assert_eq!(text.parse::<Url>(), Err(NoUrl), "{text}");
        }
    }
}
