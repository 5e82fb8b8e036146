//! The issuer's URL, as `--issuer-url` gives it.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use rustls::pki_types::ServerName;

/// The path of the issuer's endpoint.
pub const PATH: &str = "/v1/certificates";

/// `https://HOST:PORT/v1/certificates`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    text: String,
    /// DNS name or IP address (without brackets); the subject of the server certificate.
    pub host: String,
    /// TCP port, on which the issuer also listens.
    pub port: u16,
}

/// The text is not a valid [`Url`]. The message describes the expected form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write https://HOST:PORT{PATH}, for example https://venom.venom-system.svc:8443{PATH}")]
pub struct InvalidUrl;

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidUrl)?;
        let host = uri.host().ok_or(InvalidUrl)?;
        let port = uri.port_u16().filter(|&port| port > 0).ok_or(InvalidUrl)?;
        // Rejects everything else that a URI can have: a user, a query, a fragment, another path.
        let canonical = format!("https://{host}:{port}{PATH}");
        let host = host.trim_matches(['[', ']']).to_owned();
        let valid = canonical == text && ServerName::try_from(host.as_str()).is_ok();
        if valid { Ok(Self { text: canonical, host, port }) } else { Err(InvalidUrl) }
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
    fn url_requires_host_port_and_path() {
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
            assert_eq!(text.parse::<Url>(), Err(InvalidUrl), "{text}");
        }
    }
}
