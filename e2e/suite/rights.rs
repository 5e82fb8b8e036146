//! Who may do what: the operator, and users.
use std::collections::BTreeSet;

use crate::harness::eventually;
use crate::site::{SYSTEM, Site, TEAM_A, TEAM_B, on_site};

/// All that it may. What it needs is seen where it works: see `nothing_was_refused`.
const OPERATOR: [&str; 15] = [
    "organisms.genesis.venom.dev get list watch patch",
    "organisms.genesis.venom.dev/status patch",
    "genomes.genesis.venom.dev get list watch create",
    "genomes.genesis.venom.dev/status patch",
    "configmaps get list watch create update patch delete deletecollection",
    "events.events.k8s.io create patch",
    "serviceaccounts get list watch create patch",
    "services get list watch create patch",
    "deployments.apps get list watch create patch",
    "networkpolicies.networking.k8s.io get list watch create patch",
    "poddisruptionbudgets.policy get list watch create patch",
    "horizontalpodautoscalers.autoscaling get list watch create patch delete",
    "endpointslices.discovery.k8s.io list watch",
    "pods get",
    "replicasets.apps get",
];
/// Tokens have no namespace.
const EVERYWHERE: [&str; 1] = ["tokenreviews.authentication.k8s.io create"];
/// Where it lives. Of the Secrets there it may read one.
const AT_HOME: [&str; 2] = ["secrets get", "secrets create"];

#[tokio::test]
async fn everybody_may_do_what_they_do_and_no_more() {
    on_site(async |site| {
        site.release("install", &[]);
        users(site).await;
        let set = |parts: &[&[&str]]| parts.concat().iter().map(|&it| it.to_owned()).collect::<BTreeSet<_>>();
        let wanted = set(&[&OPERATOR, &EVERYWHERE]);
        assert_eq!(rights(site, TEAM_B), wanted, "for all namespaces");
        let user = format!("--as=system:serviceaccount:{SYSTEM}:venom");
        assert!(!site.can_i(&["get", "secrets/another", "-n", SYSTEM, &user]));
        let namespaces = format!("namespaces={{{TEAM_A}}}");
        site.release("upgrade", &["--set", &namespaces]);
        assert_eq!(rights(site, TEAM_A), wanted, "in a namespace that is listed");
        assert_eq!(rights(site, TEAM_B), set(&[&EVERYWHERE]), "in one that is not");
        assert_eq!(rights(site, SYSTEM), set(&[&AT_HOME, &EVERYWHERE]), "where it lives");
    })
    .await;
}

/// The roles for users, by themselves and as parts of the cluster's own.
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
        // The cluster adds aggregated rules in its own time.
        eventually(&format!("{role} {verb} {kind} {part}: {may}"), async || {
            let told = site.can_i(&[verb, &kind, &part, "-n", TEAM_A, &user]);
            if told == may { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
    }
}

/// What the operator may do there, apart from what everybody may.
fn rights(site: &Site, namespace: &str) -> BTreeSet<String> {
    let user = format!("--as=system:serviceaccount:{SYSTEM}:venom");
    let printed = site.kubectl(&["auth", "can-i", "--list", "--no-headers", "-n", namespace, &user]);
    let everybodys = ["selfsubject", "certificates.k8s.io"];
    // Columns: resources, URLs, names, verbs; of a rule about URLs the first is empty.
    let rules = printed.lines().filter(|line| !line.starts_with([' ', '[']));
    rules
        .filter(|line| !everybodys.iter().any(|group| line.contains(group)))
        .map(|line| {
            let mut columns = line.split('[');
            let resource = columns.next().unwrap().trim();
            format!("{resource} {}", columns.next_back().unwrap().trim_end_matches(']'))
        })
        .collect()
}
