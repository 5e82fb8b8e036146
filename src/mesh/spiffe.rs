//! Peer identities: SPIFFE IDs, as certificates carry them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A peer's identity.
///
/// `spiffe://<trust domain>/operator`, or `spiffe://<trust domain>/org/<organism UID>/pod/<pod UID>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: String,
    role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Role {
    Operator,
    Pod { organism: String, pod: String },
}

/// The text is not a valid [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid mesh identity; use spiffe://DOMAIN/operator or spiffe://DOMAIN/org/UID/pod/UID, each part 1 to 63 \
of a-z, 0-9, - and ."
)]
pub struct InvalidIdentity;

/// Maximum length of the trust domain and of each UID.
const MAX_SEGMENT_LEN: usize = 63;

fn parse_segment(text: &str) -> Result<String, InvalidIdentity> {
    let valid = (1..=MAX_SEGMENT_LEN).contains(&text.len())
        && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'.');
    if valid { Ok(text.to_owned()) } else { Err(InvalidIdentity) }
}

impl Identity {
    /// The operator of an installation: the only peer whose statements about the ledger count.
    ///
    /// # Errors
    /// [`InvalidIdentity`] if the trust domain is malformed.
    pub fn operator(trust_domain: &str) -> Result<Self, InvalidIdentity> {
        Ok(Self { trust_domain: parse_segment(trust_domain)?, role: Role::Operator })
    }

    /// A pod of an organism; `organism` and `pod` are UIDs.
    ///
    /// # Errors
    /// [`InvalidIdentity`] if a part is malformed.
    pub fn pod(trust_domain: &str, organism: &str, pod: &str) -> Result<Self, InvalidIdentity> {
        let role = Role::Pod { organism: parse_segment(organism)?, pod: parse_segment(pod)? };
        Ok(Self { trust_domain: parse_segment(trust_domain)?, role })
    }

    /// The trust domain, one per installation.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether this is the operator rather than a pod.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }

    /// The UID of a pod's organism; `None` for the operator, which serves all organisms.
    #[must_use]
    pub fn organism(&self) -> Option<&str> {
        match &self.role {
            Role::Operator => None,
            Role::Pod { organism, .. } => Some(organism),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.role {
            Role::Operator => write!(out, "spiffe://{}/operator", self.trust_domain),
            Role::Pod { organism, pod } => {
                write!(out, "spiffe://{}/org/{organism}/pod/{pod}", self.trust_domain)
            }
        }
    }
}

impl FromStr for Identity {
    type Err = InvalidIdentity;

    fn from_str(text: &str) -> Result<Self, InvalidIdentity> {
        let segments: Vec<&str> = text.strip_prefix("spiffe://").ok_or(InvalidIdentity)?.split('/').collect();
        match segments[..] {
            [domain, "operator"] => Self::operator(domain),
            [domain, "org", organism, "pod", pod] => Self::pod(domain, organism, pod),
            _ => Err(InvalidIdentity),
        }
    }
}

impl Serialize for Identity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_its_own_text_and_rejects_everything_else() {
        for text in ["spiffe://venom/operator", "spiffe://a.example/org/1f-2/pod/node-1"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        let long = format!("spiffe://venom/org/{}/pod/b", "a".repeat(64));
        for text in [
            "",
            "venom/operator",
            "spiffe://venom/operator/",
            "spiffe:///operator",
            "spiffe://venom/org/a/pod/",
            "spiffe://venom/org/a/pod/b/c",
            "spiffe://venom/org/A/pod/b",
            "spiffe://venom/org/a b/pod/c",
            &long,
        ] {
            assert_eq!(text.parse::<Identity>(), Err(InvalidIdentity), "{text}");
        }
    }
}
