//! Installation: with the chart, cluster-wide or for some namespaces, and with the plain manifest.
use serde::Deserialize;
use serde_json::{Value, json};
use venom::api::Organism;

use crate::harness::eventually;
use crate::site::{SYSTEM, TEAM_A, TEAM_B, in_repository, on_site, run};
use crate::world::World;

/// The steps of the README, in a namespace that enforces the restricted Pod Security Standard.
#[tokio::test]
async fn the_chart_installs() {
    on_site(async |site| {
        // If this pod were admitted, the cluster would not enforce Pod Security, and the test would prove nothing.
        let image = format!("{}:{}", site.image.0, site.image.1);
        let loose = ["run", "loose", "-n", SYSTEM, "--image", &image, "--dry-run=server"];
        let refused = run("kubectl", &loose, "").unwrap_err();
        assert!(refused.contains("violates PodSecurity"), "{refused}");

        site.release("install", &[]);
        site.kubectl(&["apply", "-n", TEAM_A, "-f", &in_repository("examples/organism.yaml")]);
        let world = site.world(TEAM_A);
        world.beating("venom").await;

        // A repeated Event patches the first one, which needs the patch permission. Events of an Organism are at least
        // a second apart; those in between are dropped.
        let apart = std::time::Duration::from_millis(1500);
        tokio::time::sleep(apart).await;
        quarantine(&world).await;
        tokio::time::sleep(apart).await;
        world.patch_genome("venom", json!({"risk": {"anoms": 0}})).await;
        decided(&world, "NOOP").await;
        tokio::time::sleep(apart).await;
        quarantine(&world).await;
        let counts = "jsonpath={.items[?(@.reason=='Quarantine')].series.count}";
        eventually("an Event that is counted", async || {
            match site.kubectl(&["get", "events.v1.events.k8s.io", "-n", TEAM_A, "-o", counts]).as_str() {
                "" => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        // Eight small segments are merged and deleted. Slower than T_Λ, so that reading keeps up.
        let spec = json!({"pulse": {"minPeriod": "100ms"}, "ledger": {"commitInterval": "500ms"}});
        world.patch_organism("venom", spec).await;
        eventually("a merged segment", async || {
            let head = world.store("venom").await.head().await.unwrap().unwrap().head.unwrap();
            if head.segments.iter().any(|it| it.level > 0) {
                Ok(())
            } else {
                Err(head.segments.len().to_string())
            }
        })
        .await;
        world.ledger("venom").await.check();

        world.delete_organism("venom").await;
        world.collected("venom").await;
        site.assert_nothing_was_forbidden();
    })
    .await;
}

/// What the values add stands in every object that it is meant for, and takes nothing away from the chart's own.
#[test]
fn the_charts_values_are_rendered() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let render = |kubernetes: &str, image: &str| {
        let values = json!({
            "image": {"repository": "example.com/venom", "digest": image},
            "commonLabels": {"team": "a", "app.kubernetes.io/name": "other"}, "commonAnnotations": {"note": "x"},
            "podLabels": {"pod": "p"}, "podAnnotations": {"pod-note": "q"}, "imagePullSecrets": [{"name": "registry"}],
            "networkPolicy": {"egress": true, "apiServerCIDRs": ["fd00::1/128"]},
            "serviceMonitor": {"enabled": true},
        });
        let args =
            ["template", "venom", &in_repository("charts/venom"), "-n", SYSTEM, "-f", "-", "--kube-version"];
        run("helm", &[&args[..], &[kubernetes]].concat(), &values.to_string())
    };
    let refused = render("1.30.9", &digest).unwrap_err();
    assert!(refused.contains("requires kubeVersion: >=1.31.0"), "{refused}");
    assert!(render("1.31.0", "latest").unwrap_err().contains("/image/digest"), "not a digest");

    let text = render("1.31.0", &digest).unwrap();
    let objects = serde_yaml::Deserializer::from_str(&text).map(|it| Value::deserialize(it).unwrap());
    let objects: Vec<Value> = objects.filter(|it| !it.is_null()).collect();
    for object in &objects {
        let metadata = &object["metadata"];
        assert_eq!(
            (&metadata["labels"]["team"], &metadata["annotations"]["note"]),
            (&json!("a"), &json!("x")),
            "{metadata}"
        );
        let kept = &metadata["annotations"]["helm.sh/resource-policy"];
        assert_eq!(*kept == "keep", object["kind"] == "CustomResourceDefinition", "{metadata}");
    }
    let of = |kind: &str| objects.iter().find(|it| it["kind"] == kind).unwrap();
    let deployment = &of("Deployment")["spec"];
    let template = &deployment["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["pod"]), (&json!("a"), &json!("p")));
    assert_eq!(template["metadata"]["annotations"], json!({"note": "x", "pod-note": "q"}));
    assert_eq!(template["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    let container = &template["spec"]["containers"][0];
    let image = format!("example.com/venom@{digest}");
    assert_eq!(
        (&container["image"], &container["env"][0]["value"]),
        (&json!(image), &json!(image)),
        "operator and nodes"
    );
    // The policy of a body selects the operator by these two.
    let selected = of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
    assert_eq!(
        (&selected["app.kubernetes.io/name"], &selected["app.kubernetes.io/component"]),
        (&json!("venom"), &json!("operator"))
    );
    for (name, value) in selected {
        assert_eq!(labels[name], *value, "{name}");
    }
    assert_eq!(
        deployment["selector"]["matchLabels"],
        of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    );
}

/// With `namespaces`, the operator has no permissions in other namespaces and does nothing there.
#[tokio::test]
async fn the_chart_installs_for_some_namespaces() {
    on_site(async |site| {
        let namespaces = format!("namespaces={{{TEAM_A},{SYSTEM}}}");
        site.release("install", &["--set", &namespaces]);
        let (world, elsewhere) = (site.world(TEAM_A), site.world(TEAM_B));
        elsewhere.create::<Organism>("venom", json!({})).await;
        world.create::<Organism>("venom", json!({})).await;
        // All watches are started before the first one responds.
        world.beating("venom").await;
        let untouched = elsewhere.organisms.get("venom").await.unwrap();
        assert_eq!((untouched.metadata.finalizers, untouched.status.is_some()), (None, false));

        let roles = site.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]);
        let own = ["/venom", "/venom-operator"];
        assert!(!roles.lines().any(|role| own.iter().any(|it| role.ends_with(it))), "{roles}");
        site.assert_nothing_was_forbidden();
    })
    .await;
}

#[tokio::test]
async fn the_plain_manifest_installs() {
    on_site(async |site| {
        // The namespace of the manifest.
        site.kubectl(&["delete", "namespace", SYSTEM, "--timeout=60s"]);
        site.apply_manifest();
        let label = "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}";
        assert_eq!(site.kubectl(&["get", "namespace", SYSTEM, "-o", label]), "restricted");
        let world = site.world(TEAM_A);
        world.create::<Organism>("venom", json!({})).await;
        world.beating("venom").await;
        quarantine(&world).await;
        site.assert_nothing_was_forbidden();
    })
    .await;
}

async fn quarantine(world: &World) {
    world.patch_genome("venom", json!({"risk": {"anoms": 20}})).await;
    decided(world, "QUARANTINE").await;
}

async fn decided(world: &World, action: &str) {
    world
        .until("venom", action, |status| {
            status.decision.as_ref().is_some_and(|decision| decision.action.as_str() == action)
        })
        .await;
}
