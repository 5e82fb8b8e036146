//! `venom release`.
use kube::ResourceExt;
use serde_json::json;

use crate::denial::{Denial, WORDS, Write};
use crate::response::QUARANTINE;
use crate::world::{World, in_world};

impl World {
    fn release(&self, more: &[&str]) -> Result<String, String> {
        self.venom(&[&["release", "organism/venom", "-n", &*self.namespace], more].concat())
    }
}

/// The error is one line.
fn line(result: Result<String, String>) -> String {
    let told = result.unwrap_err();
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    told
}

#[tokio::test]
async fn release_undoes_everything_until_control_is_handed_back() {
    in_world(async |world| {
        assert!(line(world.release(&[])).contains("not found; check the name and --namespace"));
        let folder = tempfile::tempdir().unwrap();
        let account = world.account_named("someone", folder.path()).await;
        let someone = World::new(world.client.clone(), &world.namespace, Some(account));

        let mut operator = world.operator_with_bodies("alpha", &[]);
        let before = world.organisms_with_services(&["venom"]).await;
        let told = line(someone.release(&[]));
        assert!(told.contains("forbidden") && told.contains("cannot patch"), "{told}");
        world.patch_genome("venom", json!({"risk": {"anoms": QUARANTINE}})).await;
        world.condition("venom", "Quarantined", "True", "Isolated").await;

        let told = world.release(&[]).unwrap();
        assert_eq!(world.objects_of("venom").await, before[0], "when it returns");
        for part in [
            "QUARANTINE, decided in entry ",
            "no longer: NetworkPolicy venom-quarantine selects the pods",
            "no longer: Service venom selects no pod",
            "--resume",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let organism = world.organisms.get("venom").await.unwrap();
        assert_eq!(organism.annotations()["genesis.venom.dev/hands-off"], "true");
        world.condition("venom", "Quarantined", "False", "HandsOff").await;
        assert!(world.release(&[]).unwrap().contains("nothing was in force"));

        assert!(world.release(&["--resume"]).unwrap().contains("decisions are acted on again"));
        world.condition("venom", "Quarantined", "True", "Isolated").await;

        // A write that fails.
        let denial = Denial::of(&world, "release", &[("venom", &[Write::Isolation])]).await;
        let told = line(world.release(&["--timeout", "5s"]));
        assert!(told.contains("still in force after 5 s: QUARANTINE ("), "{told}");
        assert!(told.contains("Quarantined=True Releasing") && told.contains(WORDS), "{told}");
        denial.lift().await;
        world.condition("venom", "Quarantined", "False", "HandsOff").await;
        world.release(&["--resume"]).unwrap();
        world.condition("venom", "Quarantined", "True", "Isolated").await;

        // No operator, and none that comes back in time.
        operator.kill();
        let told = line(world.release(&["--timeout", "1s"]));
        assert!(told.contains("still in force after 1 s: QUARANTINE ("), "{told}");
        let _operator = world.operator_with_bodies("alpha", &[]);
        world.release(&["--timeout", "1m"]).unwrap();
        assert_eq!(world.objects_of("venom").await, before[0]);
        let organism = world.organisms.get("venom").await.unwrap();
        assert_eq!(organism.finalizers(), [""; 0]);
    })
    .await;
}
