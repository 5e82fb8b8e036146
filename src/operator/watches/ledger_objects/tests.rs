use futures::stream;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::operator::members::Members;
use crate::operator::members::transfer::{Step, Why};

fn object(namespace: &str, name: &str, uid: &str) -> Object {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": uid,
            "labels": {(ORGANISM_LABEL): "venom", (UID_LABEL): format!("{namespace}-u")},
        },
    }))
    .unwrap()
}

/// A registry with an actor for the Organism `venom` of each namespace; its messages arrive at the receiver.
fn registry(namespace: &str) -> (Arc<Registry>, mpsc::UnboundedReceiver<Message>) {
    let registry = Arc::new(Registry::default());
    let (sender, receiver) = mpsc::unbounded_channel();
    add_actor(&registry, namespace, sender);
    (registry, receiver)
}

fn add_actor(registry: &Arc<Registry>, namespace: &str, messages: mpsc::UnboundedSender<Message>) {
    let started = registry.get_or_start(&Key::new(namespace, "venom"), "u", |mut mailbox| async move {
        while let Some(message) = mailbox.recv().await {
            let _ = messages.send(message);
        }
        false
    });
    assert!(started.is_ok());
}

/// Follows these events in a registry of the actors of two namespaces, as if they were those of namespace `a`.
async fn follow(
    registry: &Arc<Registry>,
    events: impl IntoIterator<Item = Event<Object>, IntoIter: Send>,
) -> (Arc<Ownership>, futures::channel::mpsc::UnboundedReceiver<ObjectRef<DeserializeGuard<Organism>>>) {
    let (moved, moves) = futures::channel::mpsc::unbounded();
    let ownership = Arc::new(Ownership::new(Members::alone("alpha")));
    let objects = LedgerObjects { registry: registry.clone(), ownership: ownership.clone(), moved };
    objects.handle(stream::iter(events.into_iter().map(Ok)), Some("a")).await;
    (ownership, moves)
}

async fn next(receiver: &mut mpsc::UnboundedReceiver<Message>) -> Option<LedgerEvent> {
    let next = tokio::time::timeout(std::time::Duration::from_millis(200), receiver.recv()).await;
    match next {
        Ok(Some(Message::LedgerObjects(event))) => Some(event),
        _ => None,
    }
}

#[tokio::test]
async fn lists_and_deletions_are_told_to_the_actors() {
    let (registry, mut messages) = registry("a");
    let head = || object("a", "venom-ledger", "1");
    let only_head = || Objects::from([("venom-ledger".to_owned(), LedgerObject::of(&head().metadata))]);
    let segment = || object("a", "venom-ledger-1-0-7", "2");
    let events = vec![
        Event::Init,
        Event::InitApply(head()),
        Event::InitApply(segment()),
        Event::InitDone,
        Event::Delete(segment()),
        Event::Init,
        Event::InitApply(head()),
        Event::InitDone,
    ];
    follow(&registry, events).await;
    let both = [head(), segment()].map(|it| (it.name_any(), LedgerObject::of(&it.metadata)));
    assert_eq!(next(&mut messages).await, Some(LedgerEvent::Listed(both.into())));
    let deleted = LedgerEvent::Deleted { name: "venom-ledger-1-0-7".into(), uid: "2".into() };
    assert_eq!(next(&mut messages).await, Some(deleted));
    let listed = LedgerEvent::Listed(only_head());
    assert_eq!(next(&mut messages).await, Some(listed));
    assert_eq!(next(&mut messages).await, None);
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_about_another() {
    let (registry, mut messages) = registry("a");
    let (sender, mut others) = mpsc::unbounded_channel();
    add_actor(&registry, "b", sender);
    let lists = [Event::Init, Event::InitDone];
    follow(&registry, lists).await;
    assert_eq!(next(&mut messages).await, Some(LedgerEvent::Listed(Objects::new())));
    assert_eq!(next(&mut others).await, None);
}

/// A head that changes hands, as the watch shows it.
#[tokio::test]
async fn what_a_head_says_of_its_holder_is_told_once() {
    let head = |holder: &str, released: &str| {
        let mut head = object("a", "venom-ledger", "1");
        let annotations = json!({"genesis.venom.dev/holder": holder, "genesis.venom.dev/released": released});
        head.metadata.annotations = serde_json::from_value(annotations).unwrap();
        head
    };
    let key = Key::new("a", "venom");
    let (registry, _messages) = registry("a");
    let of = async |events: Vec<Event<Object>>| {
        let (ownership, moves) = follow(&registry, events).await;
        (ownership.step(&key, "a-u", false), moves.collect::<Vec<_>>().await.len())
    };
    let held = || Event::InitApply(head("beta", "false"));
    assert_eq!(of(vec![held(), held()]).await, (Step::Take(Why::Expired), 1), "beta is not alive");
    let released = Event::Apply(head("beta", "true"));
    assert_eq!(of(vec![held(), released, held()]).await, (Step::Take(Why::Expired), 3));
    assert_eq!(of(vec![held(), Event::Apply(head("alpha", "false"))]).await, (Step::Take(Why::Restart), 2));
    assert_eq!(of(vec![held(), Event::Delete(head("beta", "false"))]).await, (Step::Take(Why::New), 2));
    let gone_in_the_list = vec![held(), Event::Init, Event::InitDone];
    assert_eq!(of(gone_in_the_list).await.0, Step::Take(Why::New));
    let segment = Event::Apply(object("a", "venom-ledger-1-0-7", "2"));
    assert_eq!(of(vec![segment]).await, (Step::Take(Why::New), 0));
    let mut written = head("beta", "false");
    written.metadata.resource_version = Some("2".into());
    assert_eq!(
        of(vec![held(), Event::Apply(written)]).await,
        (Step::Wait, 1),
        "beta has no Lease, and writes"
    );
}
