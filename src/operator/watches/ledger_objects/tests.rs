use futures::stream;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;

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
    });
    assert!(started.is_ok());
}

async fn next(receiver: &mut mpsc::UnboundedReceiver<Message>) -> Option<LedgerEvent> {
    let next = tokio::time::timeout(std::time::Duration::from_millis(200), receiver.recv()).await;
    match next {
        Ok(Some(Message::LedgerObjects(event))) => Some(event),
        _ => None,
    }
}

#[tokio::test]
async fn the_first_list_serves_recoveries_and_later_ones_the_actors() {
    let (registry, mut messages) = registry("a");
    let first_lists = FirstLists::new(0);
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
    handle(stream::iter(events.into_iter().map(Ok)), &registry, &first_lists, Some("a")).await;
    let deleted = LedgerEvent::Deleted { name: "venom-ledger-1-0-7".into(), uid: "2".into() };
    assert_eq!(next(&mut messages).await, Some(deleted));
    let listed = LedgerEvent::Listed(only_head());
    assert_eq!(next(&mut messages).await, Some(listed));
    assert_eq!(next(&mut messages).await, None);
    let key = Key::new("a", "venom");
    assert_eq!(first_lists.take(&key).await, Some(only_head()));
    assert_eq!(first_lists.take(&key).await, None, "a second recovery has to list by itself");
}

#[tokio::test]
async fn a_list_of_one_namespace_says_nothing_about_another() {
    let (registry, mut messages) = registry("a");
    let (sender, mut others) = mpsc::unbounded_channel();
    add_actor(&registry, "b", sender);
    let first_lists = FirstLists::new(0);
    let lists = [Event::Init, Event::InitDone, Event::Init, Event::InitDone];
    handle(stream::iter(lists.into_iter().map(Ok)), &registry, &first_lists, Some("a")).await;
    assert_eq!(next(&mut messages).await, Some(LedgerEvent::Listed(Objects::new())));
    assert_eq!(next(&mut others).await, None);
}
