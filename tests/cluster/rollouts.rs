//! Changed pod templates of many bodies: at most `--rollouts` of them replace their pods at a time.
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;
use venom::api::Organism;

use crate::harness::eventually;
use crate::operator::Operator;
use crate::world::{World, in_world, message};

const NAMES: [&str; 3] = ["a", "b", "c"];
const NEXT: &str = "localhost/venom:next";

impl World {
    fn operator_with_image(&self, identity: &str, image: &str) -> Operator {
        let bodies = ["--node-image", image, "--issuer-url", &*self.issuer_url, "--rollouts", "1"];
        self.operator_with(identity, &bodies)
    }

    /// The names of the Deployments with the new image.
    async fn rolled(&self) -> Vec<String> {
        let all = self.of::<Deployment>().list(&ListParams::default()).await.unwrap();
        let next = |it: &&Deployment| {
            let template = it.spec.template.spec.as_ref().unwrap();
            template.containers[0].image.as_deref() == Some(NEXT)
        };
        all.items.iter().filter(next).map(ResourceExt::name_any).collect()
    }

    /// Marks all pods of an Organism as ready.
    async fn make_ready(&self, name: &str) {
        let pods = ListParams::default().labels(&format!("genesis.venom.dev/organism={name}"));
        for pod in self.of::<Pod>().list(&pods).await.unwrap() {
            let patch = Patch::Strategic(json!({"status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]}}));
            // It may be gone: it was replaced.
            let _ = self.of::<Pod>().patch_status(&pod.name_any(), &PatchParams::default(), &patch).await;
        }
    }

    async fn until_available(&self, name: &str) {
        eventually(&format!("{name} to be available"), async || {
            self.make_ready(name).await;
            let status = self.status(name).await;
            let found = status.conditions.iter().find(|it| it.type_ == "BodyAvailable").cloned();
            match found {
                Some(found) if found.reason == "Available" => Ok(()),
                found => Err(format!("{found:?}")),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn bodies_roll_out_one_after_the_other() {
    in_world(async |world| {
        let operator = world.operator_with_image("alpha", "localhost/venom:test");
        let spec = json!({"nodes": {"replicas": 1}, "autoscaling": {"enabled": false}});
        for name in NAMES {
            world.create::<Organism>(name, spec.clone()).await;
        }
        for name in NAMES {
            world.until_available(name).await;
        }
        drop(operator);

        // An upgrade: all templates are new.
        let operator = world.operator_with_image("beta", NEXT);
        let mut waiting = NAMES.to_vec();
        eventually("the first rollout", async || {
            let rolled = world.rolled().await;
            if rolled.len() == 1 { Ok(()) } else { Err(format!("{rolled:?}")) }
        })
        .await;
        let first = world.rolled().await.remove(0);
        waiting.retain(|name| *name != first);
        for name in &waiting {
            let status = world.condition(name, "BodyAvailable", "True", "WaitingForRollout").await;
            let says = message(&status, "BodyAvailable");
            assert!(says.starts_with("1 of 1 nodes are ready.") && says.contains("--rollouts"), "{says}");
        }
        // Meanwhile the number of nodes still follows, and a new body does not wait.
        world.patch_organism(waiting[0], json!({"nodes": {"replicas": 2}})).await;
        eventually("a scaled body", async || {
            let found = world.of::<Deployment>().get(waiting[0]).await.map_err(|error| error.to_string())?;
            let replicas = found.spec.replicas;
            if replicas == Some(2) { Ok(()) } else { Err(format!("{replicas:?}")) }
        })
        .await;
        world.create::<Organism>("new", spec).await;
        world.until_available("new").await;
        let mut rolled = world.rolled().await;
        rolled.retain(|name| name != "new");
        assert_eq!(rolled, std::slice::from_ref(&first), "the others wait");

        // A restart amid a rollout does not let a second one begin.
        drop(operator);
        let _operator = world.operator_with_image("gamma", NEXT);
        for name in &waiting {
            world.beats_more(name, 20).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        rolled = world.rolled().await;
        rolled.retain(|name| name != "new");
        assert_eq!(rolled, std::slice::from_ref(&first), "the others wait");

        for count in 1..=NAMES.len() {
            let mut rolled = vec![];
            eventually(&format!("rollout {count}"), async || {
                rolled = world.rolled().await;
                rolled.retain(|name| name != "new");
                if rolled.len() >= count { Ok(()) } else { Err(format!("{rolled:?}")) }
            })
            .await;
            assert_eq!(rolled.len(), count, "{rolled:?}");
            for name in rolled {
                world.until_available(&name).await;
            }
        }
    })
    .await;
}
