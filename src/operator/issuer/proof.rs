//! From what the API server says of a token to whose it is. Pure: no client required.
//!
//! The token names a ServiceAccount, whose name is an Organism's, and a pod. A pod of something else may run as the
//! same account; so this one, by its UID, has to be controlled by a ReplicaSet that is controlled by the very
//! Deployment that this operator made for the Organism.
//!
//! That is as far as it goes. Whoever may create pods in the namespace can write such an owner into one of his own,
//! and who may exec into a node has its token: the boundary is the namespace.

use axum::http::StatusCode;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::operator::body::build::TOKEN_AUDIENCE;
use crate::operator::key::Key;

/// Extra of a user that a bound token names: the pod.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Its UID.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why there is no certificate, as the one who asked is told. It says nothing that he did not know: of the
/// cluster only whether what he showed is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// No TLS 1.3, no trust in this authority, or too slow.
    #[error("no TLS connection came about")]
    Handshake,
    /// Too many connections, or too many tokens to be reviewed.
    #[error("too much is asked at once; try again")]
    Busy,
    /// A call of the API server failed.
    #[error("the API server gives no answer; try again")]
    Unavailable,
    /// A body of more than [`super::LONGEST_BODY`].
    #[error("the body is too long")]
    TooLong,
    /// A body of another form, or cut short.
    #[error("the body has to be {{\"csr\": PEM}}")]
    Body,
    /// No signing request.
    #[error("the signing request cannot be read, or was not signed with its key")]
    Request,
    /// No `Authorization: Bearer`.
    #[error("no bearer token")]
    NoToken,
    /// The API server does not know it, or it is meant for somebody else.
    #[error("the token is not good, or not one for the audience {TOKEN_AUDIENCE}")]
    Token,
    /// Not a ServiceAccount's, or one that was not made for a pod.
    #[error("the token is bound to no pod")]
    Unbound,
    /// The ServiceAccount is no Organism's.
    #[error("the token's ServiceAccount is that of no Organism here")]
    Organism,
    /// Not there any more, or about to go.
    #[error("the token's pod is gone or going")]
    Pod,
    /// Somebody else made it.
    #[error("the token's pod is no node of its Organism")]
    Workload,
}

impl Refused {
    /// As a metric's label has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::TooLong => "too_long",
            Self::Body => "body",
            Self::Request => "request",
            Self::NoToken => "no_token",
            Self::Token => "token",
            Self::Unbound => "unbound",
            Self::Organism => "organism",
            Self::Pod => "pod",
            Self::Workload => "workload",
        }
    }

    /// As HTTP has it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Handshake | Self::Body | Self::Request => StatusCode::BAD_REQUEST,
            Self::Busy | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoToken | Self::Token => StatusCode::UNAUTHORIZED,
            Self::Unbound | Self::Organism | Self::Pod | Self::Workload => StatusCode::FORBIDDEN,
        }
    }
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// By its ServiceAccount.
    pub organism: Key,
    /// Name of the pod.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
}

/// What the token says, if it is good.
///
/// # Errors
/// [`Refused::Token`], [`Refused::Unbound`].
pub fn claim(review: Option<&TokenReviewStatus>) -> Result<Claim, Refused> {
    let review = review.filter(|it| it.authenticated == Some(true)).ok_or(Refused::Token)?;
    // An authenticator that knows nothing of audiences leaves them out: then it is not known whom it is for.
    let audiences = review.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|it| it == TOKEN_AUDIENCE) {
        return Err(Refused::Token);
    }
    let user = review.user.as_ref().ok_or(Refused::Token)?;
    let account = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, name) = account.and_then(|it| it.split_once(':')).ok_or(Refused::Unbound)?;
    let extra = |name: &str| match user.extra.as_ref()?.get(name)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Ok(Claim {
        organism: Key { namespace: namespace.into(), name: name.into() },
        pod: extra(POD_NAME).ok_or(Refused::Unbound)?,
        pod_uid: extra(POD_UID).ok_or(Refused::Unbound)?,
    })
}

/// The ReplicaSet that controls the pod of `claim`.
///
/// # Errors
/// [`Refused::Pod`], [`Refused::Workload`].
pub fn replica_set<'a>(claim: &Claim, pod: Option<&'a ObjectMeta>) -> Result<&'a OwnerReference, Refused> {
    let there =
        |pod: &&ObjectMeta| pod.uid.as_deref() == Some(&*claim.pod_uid) && pod.deletion_timestamp.is_none();
    controller(pod.filter(there).ok_or(Refused::Pod)?, "ReplicaSet")
}

/// Checks that `found`, which was looked for as `wanted`, is controlled by the Deployment with this UID.
///
/// # Errors
/// [`Refused::Workload`].
pub fn of_workload(
    wanted: &OwnerReference,
    found: Option<&ObjectMeta>,
    deployment: &str,
) -> Result<(), Refused> {
    let same = |found: &&ObjectMeta| found.uid.as_ref() == Some(&wanted.uid);
    let owner = controller(found.filter(same).ok_or(Refused::Workload)?, "Deployment")?;
    if owner.uid == deployment { Ok(()) } else { Err(Refused::Workload) }
}

fn controller<'a>(object: &'a ObjectMeta, kind: &str) -> Result<&'a OwnerReference, Refused> {
    let owners = object.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|it| it.controller == Some(true));
    let right = |it: &&OwnerReference| it.kind == kind && it.api_version == "apps/v1";
    owner.filter(right).ok_or(Refused::Workload)
}

#[cfg(test)]
mod tests;
