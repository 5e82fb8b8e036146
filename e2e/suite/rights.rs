//! Permissions of the operator and of users.
use std::collections::BTreeSet;

use crate::harness::eventually;
use crate::site::{SYSTEM, Site, TEAM_A, TEAM_B, on_site};

/// The operator's permissions in the namespaces that it watches. That they suffice is checked by
/// `assert_nothing_was_forbidden`.
const OPERATOR: [&str; 18] = [
    "organisms.genesis.venom.dev get list watch patch",
    "organisms.genesis.venom.dev/status patch",
    "organisms.genesis.venom.dev/ledger update delete",
    "genomes.genesis.venom.dev get list watch create update patch delete",
    "genomes.genesis.venom.dev/status patch",
    "configmaps get list watch create update patch delete",
    "events.events.k8s.io create patch",
    "serviceaccounts get list watch create patch delete",
    "services get list watch create update patch delete",
    "deployments.apps get list watch create patch delete",
    "poddisruptionbudgets.policy get list watch create patch delete",
    "networkpolicies.networking.k8s.io get list watch create patch delete",
    "horizontalpodautoscalers.autoscaling get list watch create update patch delete",
    "pods get list watch",
    "replicasets.apps get",
    "statefulsets.apps list watch",
    "endpointslices.discovery.k8s.io list watch",
    TOKENS,
];

/// The operator's cluster-wide permissions.
const TOKENS: &str = "tokenreviews.authentication.k8s.io create";
/// The operator's permissions in its own namespace.
const AUTHORITY: [&str; 4] = [
    "secrets [venom-mesh-ca] get",
    "secrets create",
    "configmaps [venom-mesh-ca-record] get update",
    "leases.coordination.k8s.io get list create update delete",
];
/// What it needs there, too, if it has no permissions for all namespaces.
const OWN: [&str; 2] = ["configmaps create", "events.events.k8s.io create patch"];

#[tokio::test]
async fn operator_and_users_have_exactly_their_permissions() {
    on_site(async |site| {
        site.release("install", &[]);
        users(site).await;
        let set = |parts: &[&[&str]]| -> BTreeSet<String> {
            parts.concat().into_iter().map(str::to_owned).collect()
        };
        assert_eq!(rights(site, TEAM_B), set(&[&OPERATOR]), "for all namespaces");
        assert_eq!(rights(site, SYSTEM), set(&[&OPERATOR, &AUTHORITY]), "in its own, of all namespaces");
        let namespaces = format!("namespaces={{{TEAM_A}}}");
        site.release("upgrade", &["--set", &namespaces]);
        assert_eq!(rights(site, TEAM_A), set(&[&OPERATOR]), "in a namespace that is listed");
        assert_eq!(rights(site, TEAM_B), set(&[&[TOKENS]]), "in {TEAM_B}, which is not");
        assert_eq!(rights(site, SYSTEM), set(&[&[TOKENS], &AUTHORITY, &OWN]), "in {SYSTEM}, where it lives");
    })
    .await;
}

/// The roles for users, alone and aggregated to the cluster's default roles.
async fn users(site: &Site) {
    for role in ["venom-viewer", "venom-injector", "venom-editor", "view", "edit"] {
        let (name, user) = (format!("--clusterrole={role}"), format!("--user=of-{role}"));
        site.kubectl(&["create", "rolebinding", role, "-n", TEAM_A, &name, &user]);
    }
    for (role, verb, kind, may) in [
        ("venom-viewer", "list", "organisms", true),
        ("venom-viewer", "patch", "genomes", false),
        ("venom-injector", "patch", "genomes", true),
        ("venom-injector", "patch", "organisms", false),
        ("venom-editor", "create", "organisms", true),
        ("venom-editor", "patch", "organisms/status", false),
        ("view", "watch", "genomes", true),
        ("view", "patch", "genomes", false),
        ("edit", "delete", "organisms", true),
        ("edit", "patch", "organisms/scale", true),
    ] {
        let (kind, part) = kind.split_once('/').unwrap_or((kind, ""));
        let (kind, part) = (format!("{kind}.genesis.venom.dev"), format!("--subresource={part}"));
        let user = format!("--as=of-{role}");
        // Aggregation is asynchronous.
        eventually(&format!("{role} {verb} {kind} {part}: {may}"), async || {
            let told = site.can_i(&[verb, &kind, &part, "-n", TEAM_A, &user]);
            if told == may { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
    }
}

/// The operator's permissions in a namespace, without those of every authenticated user.
fn rights(site: &Site, namespace: &str) -> BTreeSet<String> {
    let user = format!("--as=system:serviceaccount:{SYSTEM}:venom");
    let printed = site.kubectl(&["auth", "can-i", "--list", "--no-headers", "-n", namespace, &user]);
    let everybodys = ["authorization.k8s.io", "selfsubjectreviews.", "certificates.k8s.io"];
    // Columns: resources, URLs, names, verbs. The first is empty in a rule about URLs.
    let rules = printed.lines().filter(|line| !line.starts_with([' ', '[']));
    rules
        .filter(|line| !everybodys.iter().any(|group| line.contains(group)))
        .map(|line| {
            let columns: Vec<&str> = line.split('[').map(|it| it.trim().trim_end_matches(']')).collect();
            match columns[..] {
                [resource, _, "", verbs] => format!("{resource} {verbs}"),
                [resource, _, names, verbs] => format!("{resource} [{names}] {verbs}"),
                _ => panic!("{line}"),
            }
        })
        .collect()
}
