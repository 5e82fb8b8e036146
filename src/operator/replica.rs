//! What makes this process one of several replicas: it keeps a Lease, takes organisms once it knows what there is, and has its
//! part of what the API server may be asked for.

use std::sync::Arc;

use super::budget::Budget;
use super::controllers;
use super::health::{List, Readiness};
use super::members::Members;
use super::members::lease::{Leases, OwnLease};
use super::watches::Scope;
use super::watches::ledger_objects;

/// Renews the Lease of this replica, and shows whether that works as it does of a watch.
pub async fn keep_lease(
    members: Arc<Members>,
    leases: Leases,
    own: OwnLease,
    list: List,
    readiness: Arc<Readiness>,
) {
    let told = |failure: Option<&str>| {
        if failure.is_none() {
            readiness.arrived(&list);
        }
        readiness.failing(&list, failure);
    };
    members.run(own, leases, told).await;
}

/// Takes organisms once all that concerns them is listed, or cannot be had.
pub async fn take_organisms(members: Arc<Members>, readiness: Arc<Readiness>, scopes: Vec<Scope>) {
    for scope in &scopes {
        let ledgers = scope.list(ledger_objects::LIST);
        readiness.until_tried(&ledgers).await;
        // Without ledgers Organisms are not listed.
        if !readiness.is_waiting_for(&ledgers) {
            readiness.until_tried(&scope.list(controllers::ORGANISMS)).await;
        }
    }
    members.set_accepts(true);
}

/// Replicas divide what the API server may be asked for.
pub async fn share_budget(members: Arc<Members>, budget: Arc<Budget>) {
    let mut changes = members.changes();
    loop {
        budget.set_replicas(changes.borrow_and_update().owners().len());
        // Infallible: `members` holds the sender.
        let _ = changes.changed().await;
    }
}
