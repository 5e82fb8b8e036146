use std::time::Duration;

use axum::http::StatusCode;
use futures::future::join_all;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::*;
use crate::operator::mock::{Answer, ApiServer, server_error};

fn list(names: &[&str], next: Option<&str>) -> Answer {
    let items: Vec<Value> =
        names.iter().map(|name| json!({"metadata": {"name": name, "namespace": "a"}})).collect();
    let metadata = json!({"resourceVersion": "1", "continue": next});
    let kind = "NetworkPolicyList";
    let list =
        json!({"apiVersion": "networking.k8s.io/v1", "kind": kind, "metadata": metadata, "items": items});
    (StatusCode::OK, list)
}

fn names(found: &Found<NetworkPolicy>) -> Vec<String> {
    found.as_ref().unwrap().iter().map(ResourceExt::name_any).collect()
}

/// Whoever asks during a list might learn from it what was true before: the next one answers.
#[tokio::test(start_paused = true)]
async fn all_that_ask_during_a_list_are_answered_by_the_next_one() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new("NetworkPolicies");
    let (api, namespace) = (Api::namespaced(client, "a"), Arc::from("a"));
    let first = lists.objects(&api, &namespace);
    let later = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        join_all((0..100).map(|_| lists.objects(&api, &namespace))).await
    };
    let answered = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        api_server.answer_uri(list(&["x"], Some("more"))).await;
        api_server.answer_uri(list(&["y"], None)).await;
        api_server.answer_uri(list(&["z"], None)).await
    };
    let (first, later, uri) = tokio::join!(first, later, answered);
    assert_eq!(names(&first), ["x", "y"]);
    assert!(later.iter().all(|it| names(it) == ["z"]));
    assert!(uri.contains("limit=250") && !uri.contains("continue"), "{uri}");
}

#[tokio::test(start_paused = true)]
async fn lists_of_a_namespace_are_apart_and_others_do_not_wait() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new("NetworkPolicies");
    let began = Instant::now();
    for (namespace, late, answered) in [("a", 100, 100), ("b", 100, 200), ("a", 0, 300)] {
        let (api, namespace) = (Api::namespaced(client.clone(), namespace), Arc::from(namespace));
        let answer = async {
            tokio::time::sleep(Duration::from_millis(late)).await;
            api_server.answer_uri(list(&["x"], None)).await
        };
        let (found, _) = tokio::join!(lists.objects(&api, &namespace), answer);
        assert_eq!(names(&found), ["x"]);
        assert_eq!(began.elapsed().as_millis(), answered);
    }
}

/// Nothing that is listed is not the same as nothing that could be listed.
#[tokio::test(start_paused = true)]
async fn a_failure_is_told_to_all_that_had_asked_and_then_it_is_tried_again() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new("NetworkPolicies");
    let (api, namespace) = (Api::namespaced(client, "a"), Arc::from("a"));
    let asked = join_all((0..3).map(|_| lists.objects(&api, &namespace)));
    let answered = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        api_server.answer_uri(server_error()).await;
        api_server.answer_uri(server_error()).await
    };
    let (found, _) = tokio::join!(asked, answered);
    for error in found.iter().map(|it| it.as_ref().unwrap_err().to_string()) {
        assert_eq!(error, "list NetworkPolicies in a: etcdserver: request timed out");
    }
    let (found, _) = tokio::join!(lists.objects(&api, &namespace), api_server.answer_uri(list(&["x"], None)));
    assert_eq!(names(&found), ["x"]);
}

/// An organism that is deleted meanwhile takes its list with it. What was listed before it is too old.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_given_up_is_made_by_the_next_that_has_asked() {
    let (client, mut api_server) = ApiServer::start();
    let lists = SharedLists::new("NetworkPolicies");
    let (api, namespace) = (Api::namespaced(client, "a"), Arc::from("a"));
    let (found, _) =
        tokio::join!(lists.objects(&api, &namespace), api_server.answer_uri(list(&["old"], None)));
    assert_eq!(names(&found), ["old"]);
    let given_up = tokio::time::timeout(Duration::from_secs(2), lists.objects(&api, &namespace));
    let waiting = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        lists.objects(&api, &namespace).await
    };
    let answered = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        // That of the first waits for its answer in vain.
        api_server.answer_uri(list(&["given up"], None)).await;
        api_server.answer_uri(list(&["new"], None)).await
    };
    let (given_up, waiting, _) = tokio::join!(given_up, waiting, answered);
    assert!(given_up.is_err());
    assert_eq!(names(&waiting), ["new"]);
}
