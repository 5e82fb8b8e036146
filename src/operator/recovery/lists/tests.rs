use futures::future::join_all;
use serde_json::{Value, json};

use super::*;
use crate::api::labels::ORGANISM_LABEL;
use crate::operator::mock::{Answer, ApiServer, metadata_list, server_error};

fn head(organism: &str) -> Value {
    json!({"metadata": {
        "name": format!("{organism}-ledger"), "namespace": "a", "uid": "h", "labels": {(ORGANISM_LABEL): organism},
    }})
}

fn list(organisms: &[&str]) -> Answer {
    let items: Vec<_> = organisms.iter().map(|it| head(it)).collect();
    metadata_list(&items)
}

fn names(found: &Result<Objects, ListError>) -> Vec<&str> {
    found.as_ref().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn all_that_ask_together_are_answered_by_one_list() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new(client);
    let keys = ["x", "y", "z"].map(|name| Key::new("a", name));
    let (found, uri) = tokio::join!(
        join_all(keys.iter().map(|key| lists.objects(key))),
        api_server.answer_uri(list(&["x", "z"]))
    );
    assert!(uri.contains("organism+in+%28x%2Cy%2Cz%29") && uri.contains("limit=500"), "{uri}");
    assert_eq!(names(&found[0]), ["x-ledger"]);
    assert_eq!(names(&found[1]), Vec::<&str>::new());
    assert_eq!(names(&found[2]), ["z-ledger"]);
}

#[tokio::test]
async fn each_namespace_and_each_fifty_names_have_their_own_list() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new(client);
    let keys: Vec<_> =
        (0..51).map(|at| Key::new("a", &format!("o{at}"))).chain([Key::new("b", "x")]).collect();
    let answered = async {
        let mut uris = vec![];
        for _ in 0..3 {
            uris.push(api_server.answer_uri(list(&[])).await);
        }
        uris
    };
    let (found, uris) = tokio::join!(join_all(keys.iter().map(|key| lists.objects(key))), answered);
    assert!(found.iter().all(|it| names(it).is_empty()));
    let within =
        |namespace: &str| uris.iter().filter(|it| it.contains(&format!("/namespaces/{namespace}/"))).count();
    assert_eq!((within("a"), within("b")), (2, 1));
}

/// Nothing that is listed is not the same as nothing that could be listed.
#[tokio::test]
async fn a_failure_is_told_to_all_and_the_next_list_is_tried() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new(client);
    let keys = ["x", "y"].map(|name| Key::new("a", name));
    let (found, _) = tokio::join!(
        join_all(keys.iter().map(|key| lists.objects(key))),
        api_server.answer_uri(server_error())
    );
    assert!(found.iter().all(|it| matches!(it, Err(ListError::Store(_)))));
    let (found, _) = tokio::join!(lists.objects(&keys[0]), api_server.answer_uri(list(&["x"])));
    assert_eq!(names(&found), ["x-ledger"]);
}

/// A page is in memory as a whole: what does not fit into one is asked for again.
#[tokio::test]
async fn a_list_has_as_many_pages_as_it_takes() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new(client);
    let key = Key::new("a", "x");
    let answered = async {
        let (status, mut first) = list(&["x"]);
        first["metadata"]["continue"] = json!("next");
        api_server.answer_uri((status, first)).await;
        let mut second = head("x");
        second["metadata"]["name"] = json!("x-ledger-1-0-7");
        api_server.answer_uri(metadata_list(&[second])).await
    };
    let (found, uri) = tokio::join!(lists.objects(&key), answered);
    assert!(uri.contains("continue=next"), "{uri}");
    assert_eq!(names(&found), ["x-ledger", "x-ledger-1-0-7"]);
}
