//! Decides from the API server's objects which pod presented a token. Pure: no client required.
//!
//! The token names a ServiceAccount, whose name is the Organism's, and a pod. Other pods of the namespace may run as
//! the same ServiceAccount. Therefore the pod, matched by UID, must have a ReplicaSet as its controller, and the
//! ReplicaSet must be controlled by the Deployment that this operator created for the Organism.
//!
//! The security boundary is the namespace. A user who may create pods in it can set such an owner reference on a pod,
//! and a user who may exec into a node's pod can read its token.

use axum::http::StatusCode;
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::operator::body::build::TOKEN_AUDIENCE;
use crate::operator::key::Key;

/// Key in `user.extra` of a token that is bound to a pod: the pod's name.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
/// Key in `user.extra`: the pod's UID.
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why a request gets no certificate. The message is the response body, so it must not reveal anything about the
/// cluster beyond whether the client's own token and request are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The client does not support TLS 1.3, does not trust the CA, or is too slow.
    #[error("TLS handshake failed")]
    Handshake,
    /// Too many connections or token reviews at once.
    #[error("too many requests; retry later")]
    Busy,
    /// An API call failed or timed out.
    #[error("the API server is unavailable; retry later")]
    Unavailable,
    /// The body is longer than [`super::MAX_BODY_BYTES`].
    #[error("the request body is too long")]
    TooLong,
    /// The body is incomplete or not the expected JSON.
    #[error("the request body must be {{\"csr\": PEM}}")]
    Body,
    /// The certificate signing request is invalid.
    #[error("the signing request cannot be parsed, or its signature does not match its public key")]
    Request,
    /// The header `Authorization: Bearer TOKEN` is missing.
    #[error("the request has no bearer token")]
    NoToken,
    /// The API server rejects the token, or its audience is another one.
    #[error("the token is invalid or not for the audience {TOKEN_AUDIENCE}")]
    Token,
    /// The token is not that of a ServiceAccount, or not bound to a pod.
    #[error("the token is not bound to a pod")]
    Unbound,
    /// No Organism of this operator has the name of the ServiceAccount.
    #[error("the token's ServiceAccount does not belong to an Organism of this operator")]
    Organism,
    /// The pod does not exist or is being deleted.
    #[error("the token's pod is deleted or terminating")]
    Pod,
    /// The pod was not created by the Organism's Deployment.
    #[error("the token's pod is not a node of its Organism")]
    Workload,
}

impl Refusal {
    /// The value of the metric label `reason`.
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

    /// The status of the HTTP response.
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

/// The pod and the Organism that a valid token names. The pod may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// Namespace and name of the ServiceAccount, which are the Organism's.
    pub organism: Key,
    /// Name of the pod that the token is bound to.
    pub pod: String,
    /// UID of that pod.
    pub pod_uid: String,
}

/// Returns what the token claims according to its review.
///
/// # Errors
/// [`Refusal::Token`] if it is invalid, [`Refusal::Unbound`] if it names no ServiceAccount or no pod.
pub fn pod_claim(review: Option<&TokenReviewStatus>) -> Result<PodClaim, Refusal> {
    let review = review.filter(|it| it.authenticated == Some(true)).ok_or(Refusal::Token)?;
    // An authenticator without support for audiences returns none, and then the audience was not verified.
    let audiences = review.audiences.as_deref().unwrap_or_default();
    if !audiences.iter().any(|it| it == TOKEN_AUDIENCE) {
        return Err(Refusal::Token);
    }
    let user = review.user.as_ref().ok_or(Refusal::Token)?;
    let account = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, name) = account.and_then(|it| it.split_once(':')).ok_or(Refusal::Unbound)?;
    let extra = |name: &str| match user.extra.as_ref()?.get(name)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    };
    Ok(PodClaim {
        organism: Key { namespace: namespace.into(), name: name.into() },
        pod: extra(POD_NAME).ok_or(Refusal::Unbound)?,
        pod_uid: extra(POD_UID).ok_or(Refusal::Unbound)?,
    })
}

/// Returns the owner reference to the ReplicaSet that controls `pod`, found by the name in `claim`.
///
/// # Errors
/// [`Refusal::Pod`] if the pod does not exist, has another UID or is being deleted; [`Refusal::Workload`] if its
/// controller is not a ReplicaSet.
pub fn controlling_replica_set<'a>(
    claim: &PodClaim,
    pod: Option<&'a ObjectMeta>,
) -> Result<&'a OwnerReference, Refusal> {
    let is_claimed =
        |pod: &&ObjectMeta| pod.uid.as_deref() == Some(&*claim.pod_uid) && pod.deletion_timestamp.is_none();
    controller(pod.filter(is_claimed).ok_or(Refusal::Pod)?, "ReplicaSet")
}

/// Checks that `replica_set`, found by the name in `reference`, is controlled by the Deployment with this UID.
///
/// # Errors
/// [`Refusal::Workload`] if it is not, or if the ReplicaSet does not exist or has another UID.
pub fn check_deployment(
    reference: &OwnerReference,
    replica_set: Option<&ObjectMeta>,
    deployment: &str,
) -> Result<(), Refusal> {
    let is_referenced = |it: &&ObjectMeta| it.uid.as_ref() == Some(&reference.uid);
    let owner = controller(replica_set.filter(is_referenced).ok_or(Refusal::Workload)?, "Deployment")?;
    if owner.uid == deployment { Ok(()) } else { Err(Refusal::Workload) }
}

/// Returns the controller reference of `object` if its kind is `kind` of apps/v1.
fn controller<'a>(object: &'a ObjectMeta, kind: &str) -> Result<&'a OwnerReference, Refusal> {
    let owners = object.owner_references.as_deref().unwrap_or_default();
    let owner = owners.iter().find(|it| it.controller == Some(true));
    let has_kind = |it: &&OwnerReference| it.kind == kind && it.api_version == "apps/v1";
    owner.filter(has_kind).ok_or(Refusal::Workload)
}

#[cfg(test)]
mod tests;
