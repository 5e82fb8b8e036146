//! Who somebody in a mesh is: a SPIFFE id, carried by a certificate.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who somebody in a mesh is.
///
/// `spiffe://<trust domain>/operator`, or `spiffe://<trust domain>/org/<organism UID>/pod/<pod UID>`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    trust_domain: String,
    who: Who,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Who {
    Operator,
    Pod { organism: String, pod: String },
}

/// Why a text is no [`Identity`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no identity of a mesh; it has to be spiffe://DOMAIN/operator or spiffe://DOMAIN/org/UID/pod/UID, each part \
1 to 63 of a-z, 0-9, - and ."
)]
pub struct NoIdentity;

/// Longest part of an identity.
const LONGEST_PART: usize = 63;

fn part(text: &str) -> Result<String, NoIdentity> {
    let right = (1..=LONGEST_PART).contains(&text.len())
        && text.bytes().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-' || it == b'.');
    if right { Ok(text.to_owned()) } else { Err(NoIdentity) }
}

impl Identity {
    /// The operator of an installation: the only one whose word on a ledger counts.
    ///
    /// # Errors
    /// [`NoIdentity`].
    pub fn operator(trust_domain: &str) -> Result<Self, NoIdentity> {
        Ok(Self { trust_domain: part(trust_domain)?, who: Who::Operator })
    }

    /// A pod of an organism; both by their UIDs.
    ///
    /// # Errors
    /// [`NoIdentity`].
    pub fn pod(trust_domain: &str, organism: &str, pod: &str) -> Result<Self, NoIdentity> {
        let who = Who::Pod { organism: part(organism)?, pod: part(pod)? };
        Ok(Self { trust_domain: part(trust_domain)?, who })
    }

    /// The installation.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether this is the operator.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.who == Who::Operator
    }

    /// The UID of the organism that a pod is part of; the operator is part of none.
    #[must_use]
    pub fn organism(&self) -> Option<&str> {
        match &self.who {
            Who::Operator => None,
            Who::Pod { organism, .. } => Some(organism),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Operator => write!(out, "spiffe://{}/operator", self.trust_domain),
            Who::Pod { organism, pod } => {
                write!(out, "spiffe://{}/org/{organism}/pod/{pod}", self.trust_domain)
            }
        }
    }
}

impl FromStr for Identity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, NoIdentity> {
        let parts: Vec<&str> = text.strip_prefix("spiffe://").ok_or(NoIdentity)?.split('/').collect();
        match parts[..] {
            [domain, "operator"] => Self::operator(domain),
            [domain, "org", organism, "pod", pod] => Self::pod(domain, organism, pod),
            _ => Err(NoIdentity),
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
    fn reads_what_it_writes_and_nothing_else() {
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
            assert_eq!(text.parse::<Identity>(), Err(NoIdentity), "{text}");
        }
    }
}
