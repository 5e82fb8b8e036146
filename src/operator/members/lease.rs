//! The Lease of this replica, and the list of all.
//!
//! Replicas that watch the same namespaces share their organisms: their Leases carry one label. A Lease names the process
//! that writes it. A new process of the same name replaces its predecessor at once; two that live side by side, which is
//! a mistake, do not take the Lease from each other in turn: the newer one keeps it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use sha3::{Digest, Sha3_256};

use super::view::Stated;
use super::{LEASE_DURATION, RENEW_PERIOD};
use crate::api::labels::{MANAGED_BY_LABEL, MANAGER};
use crate::operator::call::{CallError, call};

/// On the Lease of a replica: the namespaces that it watches, as a hash, or `all`.
const SCOPE_LABEL: &str = "genesis.venom.dev/replicas-of";
/// On a Lease: the process that writes it.
const PROCESS: &str = "genesis.venom.dev/process";
/// On a Lease: whether its replica takes organisms.
const ACCEPTS: &str = "genesis.venom.dev/takes-organisms";
/// Longest name of an object.
const LONGEST_NAME: usize = 253;

/// Why a Lease could not be renewed or listed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There was no answer in time.
    #[error("{0} Leases: no answer in time")]
    TimeOut(&'static str),
    /// Another process has the name of this replica.
    #[error("another operator renews Lease {0}: give each replica an --identity of its own")]
    Displaced(String),
}

/// The Leases of the replicas that share their organisms.
#[derive(Clone)]
pub struct Leases {
    api: Api<Lease>,
    namespace: String,
    scope: String,
}

impl Leases {
    /// The Leases in `namespace`, that of the operator, of the replicas that watch `namespaces`; all if there is none.
    #[must_use]
    pub fn new(client: Client, namespace: &str, namespaces: &[String]) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, namespace: namespace.to_owned(), scope: scope(namespaces) }
    }

    /// The Lease of the replica `identity`, for a new process of it.
    #[must_use]
    pub fn own(&self, identity: &str) -> OwnLease {
        let process = uuid::Uuid::now_v7().to_string();
        let identity = identity.to_owned();
        OwnLease { name: self.name(&identity), leases: self.clone(), identity, process, state: State::Fresh }
    }

    /// All of them.
    ///
    /// # Errors
    /// [`LeaseError::Call`].
    pub async fn list(&self) -> Result<Vec<Stated>, LeaseError> {
        let params = ListParams::default().labels(&format!("{SCOPE_LABEL}={}", self.scope));
        let found = call("list", &format!("Leases in {}", self.namespace), self.api.list(&params)).await?;
        let stated = |lease: &Lease| {
            let identity = lease.spec.as_ref()?.holder_identity.as_deref()?.into();
            let accepts = lease.annotations().get(ACCEPTS).is_some_and(|it| it == "true");
            Some(Stated { identity, version: lease.resource_version()?, accepts })
        };
        Ok(found.items.iter().filter_map(stated).collect())
    }

    /// Deletes these Leases if nobody has renewed them since.
    pub(super) async fn delete_expired(&self, expired: &[Stated]) {
        for lease in expired {
            let name = self.name(&lease.identity);
            let preconditions = Preconditions { resource_version: Some(lease.version.clone()), uid: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            // Who cannot delete it, or finds it renewed, sees it again with the next list.
            if call("delete", &self.object(&name), self.api.delete(&name, &params)).await.is_ok() {
                tracing::info!(lease = name, "deleted: nobody has renewed it for a minute");
            }
        }
    }

    /// Deletes the Lease of this replica.
    pub(super) async fn delete(&self, identity: &str) -> Result<(), CallError> {
        let name = self.name(identity);
        let params = DeleteParams::default();
        match call("delete", &self.object(&name), self.api.delete(&name, &params)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    fn object(&self, name: &str) -> String {
        format!("Lease {}/{name}", self.namespace)
    }

    /// `venom-<identity>`; with the scope, and with a hash where the identity cannot be part of a name.
    fn name(&self, identity: &str) -> String {
        let prefix = if self.scope == ALL { "venom".to_owned() } else { format!("venom-{}", self.scope) };
        let name = format!("{prefix}-{identity}");
        let label = |it: &str| {
            let inner = |it: &char| it.is_ascii_lowercase() || it.is_ascii_digit() || *it == '-';
            !it.is_empty() && it.chars().all(|it| inner(&it)) && !it.starts_with('-') && !it.ends_with('-')
        };
        let valid = name.len() <= LONGEST_NAME && name.split('.').all(label);
        if valid { name } else { format!("{prefix}-{}", short_hash(identity)) }
    }
}

/// The scope of those that watch all namespaces.
const ALL: &str = "all";

/// The value of the label by which the replicas find each other: those that watch the same namespaces.
#[must_use]
pub fn scope(namespaces: &[String]) -> String {
    if namespaces.is_empty() {
        return ALL.to_owned();
    }
    let mut sorted = namespaces.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    short_hash(&sorted.join(","))
}

fn short_hash(text: &str) -> String {
    const_hex::encode(&Sha3_256::digest(text.as_bytes())[..5])
}

/// The Lease of this replica.
pub struct OwnLease {
    leases: Leases,
    name: String,
    identity: String,
    process: String,
    state: State,
}

/// What is known of the Lease.
enum State {
    /// This process has not written it yet: whatever is there is of a predecessor.
    Fresh,
    /// Written by this process, with this resourceVersion.
    Written(String),
    /// Another process has written it after this one, last seen with this resourceVersion at this time.
    Displaced(String, Duration),
}

impl OwnLease {
    /// Renews the Lease, or creates it; `now` is the time since the machine booted.
    ///
    /// # Errors
    /// [`LeaseError`]: this replica may not rely on it.
    pub async fn renew(&mut self, accepts: bool, now: Duration) -> Result<(), LeaseError> {
        if let State::Written(version) = &self.state {
            let lease = self.lease(accepts, Some(version.clone()));
            match self.replace(&lease).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let object = self.leases.object(&self.name);
        let Some(found) = call("get", &object, self.leases.api.get_opt(&self.name)).await? else {
            let lease = self.lease(accepts, None);
            let made =
                call("create", &object, self.leases.api.create(&PostParams::default(), &lease)).await?;
            self.state = State::Written(made.resource_version().unwrap_or_default());
            return Ok(());
        };
        let version = found.resource_version().unwrap_or_default();
        // A write whose answer was lost.
        let ours = found.annotations().get(PROCESS) == Some(&self.process);
        let over = match &self.state {
            State::Fresh => true,
            State::Displaced(seen, since) => *seen == version && now.saturating_sub(*since) >= LEASE_DURATION,
            State::Written(_) => false,
        };
        if ours || over {
            let lease = self.lease(accepts, Some(version));
            return Ok(self.replace(&lease).await?);
        }
        if !matches!(&self.state, State::Displaced(seen, _) if *seen == version) {
            self.state = State::Displaced(version, now);
        }
        Err(LeaseError::Displaced(self.name.clone()))
    }

    async fn replace(&mut self, lease: &Lease) -> Result<(), CallError> {
        let params = PostParams::default();
        let put = self.leases.api.replace(&self.name, &params, lease);
        let written = call("update", &self.leases.object(&self.name), put).await?;
        self.state = State::Written(written.resource_version().unwrap_or_default());
        Ok(())
    }

    fn lease(&self, accepts: bool, resource_version: Option<String>) -> Lease {
        let labels = [
            (MANAGED_BY_LABEL, MANAGER),
            ("app.kubernetes.io/part-of", MANAGER),
            (SCOPE_LABEL, self.leases.scope.as_str()),
        ];
        let annotations = [(PROCESS, self.process.clone()), (ACCEPTS, accepts.to_string())];
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let metadata = ObjectMeta {
            name: Some(self.name.clone()),
            labels: Some(labels.into_iter().map(owned).collect()),
            annotations: Some(BTreeMap::from(annotations.map(|(name, value)| (name.to_owned(), value)))),
            resource_version,
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

/// Two renewals fit between the last one that others saw and the end of the Lease.
const _: () = assert!(RENEW_PERIOD.as_millis() * 2 < LEASE_DURATION.as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_of_the_same_namespaces_share_a_scope_in_any_order() {
        let of = |names: &[&str]| scope(&names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]), "all");
        assert_eq!(of(&["a", "b"]), of(&["b", "a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["a"]));
    }
}
