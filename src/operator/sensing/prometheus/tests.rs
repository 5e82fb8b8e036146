use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::post;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn query(above: f64, anoms_per_unit: f64, max: u32) -> PrometheusQuery {
    PrometheusQuery {
        name: "errors".into(),
        query: "up".into(),
        interval: crate::api::GoDuration::from_secs(15),
        above,
        anoms_per_unit,
        max,
    }
}

#[test]
fn a_value_counts_by_its_distance_from_above() {
    for (value, above, per_unit, max, expected) in [
        (5.0, 0.0, 1.0, 100, 5),
        (5.0, 5.0, 1.0, 100, 0),
        (4.0, 5.0, 1.0, 100, 0),
        (7.6, 5.0, 1.0, 100, 3),
        (5.2, 5.0, 1.0, 100, 0),
        (5.5, 5.0, 10.0, 100, 5),
        (1e9, 0.0, 1.0, 100, 100),
        (f64::MAX, -1e15, 1e6, 1_000_000, 1_000_000),
        (f64::MAX, -1e15, 0.0, 100, 0),
    ] {
        assert_eq!(anoms(&query(above, per_unit, max), value), expected, "{value} {above} {per_unit}");
    }
}

#[test]
fn an_answer_has_one_finite_value_or_says_what_is_wrong() {
    let of = |data: &str| value(format!(r#"{{"status":"success","data":{data}}}"#).as_bytes(), 1.0);
    assert_eq!(of(r#"{"resultType":"scalar","result":[1.5,"2"]}"#), Ok(2.0));
    assert_eq!(of(r#"{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1.5,"2.5"]}]}"#), Ok(2.5));
    let two = r#"{"metric":{},"value":[1,"1"]},{"metric":{},"value":[1,"1"]}"#;
    for (data, expected) in [
        (r#"{"resultType":"scalar","result":[1,"NaN"]}"#, "NaN"),
        (r#"{"resultType":"scalar","result":[1,"+Inf"]}"#, "+Inf"),
        (r#"{"resultType":"scalar","result":[1,"two"]}"#, "not a number"),
        (r#"{"resultType":"vector","result":[]}"#, "or vector(0)"),
        (r#"{"resultType":"vector","result":[{"metric":{},"histogram":[1,{}]}]}"#, "histogram"),
        (r#"{"resultType":"matrix","result":[]}"#, "neither"),
        (r#"{"resultType":"string","result":[1,"a"]}"#, "neither"),
        (r#"{"resultType":"later","result":[]}"#, "not one of Prometheus"),
        (&format!(r#"{{"resultType":"vector","result":[{two}]}}"#), "2 series"),
    ] {
        assert!(of(data).unwrap_err().contains(expected), "{data}: {:?}", of(data));
    }
    assert!(value(b"<html>", 1.0).is_err());
    let old = br#"{"data":{"resultType":"scalar","result":[1,"2"]}}"#;
    assert_eq!(value(old, 301.0), Ok(2.0));
    assert!(value(old, 302.0).unwrap_err().contains("minutes old"));
}

/// The value of a sample as servers write it, or as somebody would who means harm.
fn any_number() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_map(|it| it.to_string()),
        any::<u64>().prop_map(|bits| format!("{:e}", f64::from_bits(bits))),
        "[+-]?[0-9]{0,400}[.]?[0-9]{0,3}(e[+-]?[0-9]{1,4})?",
        "[+-]?([nN]a[nN]|[iI]nf(inity)?|.{0,3})",
    ]
}

proptest! {
    /// Whatever the answer, no organism gets more than the query allows, and nothing that is not of now.
    #[test]
    fn a_value_is_finite_of_now_and_bounded(
        text in any_number(),
        time in prop_oneof![any::<f64>(), -400.0..400.0_f64],
        vector in any::<bool>(),
        above in -1e15..1e15_f64,
        per_unit in 0.0..1e6_f64,
        max in 1..=1_000_000_u32,
    ) {
        let sample = json!([time, text]);
        let data = match vector {
            true => json!({"resultType": "vector", "result": [{"metric": {}, "value": sample}]}),
            false => json!({"resultType": "scalar", "result": sample}),
        };
        let is_right = text.parse::<f64>().is_ok_and(f64::is_finite) && time.abs() <= STALE;
        let value = value(json!({"data": data}).to_string().as_bytes(), 0.0);
        prop_assert_eq!(value.is_ok(), is_right, "{:?} at {}", text, time);
        if let Ok(value) = value {
            let anoms = anoms(&query(above, per_unit, max), value);
            prop_assert!(anoms <= max.into() && (value > above || anoms == 0));
        }
    }

    #[test]
    fn a_damaged_answer_is_an_error_or_another_answer(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let answer = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2.5"]}]}}"#;
        prop_assert!(value(&answer.as_bytes()[..cut.index(answer.len())], 1.0).is_err());
        let mut damaged = answer.as_bytes().to_vec();
        damaged[at.index(answer.len())] = byte;
        prop_assert!(value(&damaged, 1.0).ok().is_none_or(f64::is_finite));
    }
}

#[test]
fn only_a_url_of_a_server_is_accepted() {
    for url in ["", "prometheus:9090", "ftp://a", "http://", "http://a/?b=c", "http://a b"] {
        assert!(matches!(Prometheus::new(url, None), Err(PrometheusError::Url)), "{url}");
    }
    for url in ["http://prometheus.monitoring.svc:9090", "http://a/prefix/", "https://a"] {
        assert!(Prometheus::new(url, None).is_ok(), "{url}");
    }
}

/// What a server, or something else at its address, may answer.
#[tokio::test]
async fn each_way_to_fail_is_named() {
    let now = k8s_openapi::jiff::Timestamp::now().as_second();
    let scalar = format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":[{now},"2"]}}}}"#);
    let answer = async move |headers: axum::http::HeaderMap, body: String| {
        assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
        let query =
            form_urlencoded::parse(body.as_bytes()).find(|it| it.0 == "query").unwrap().1.into_owned();
        match query.as_str() {
            "fine" => scalar.clone().into_response(),
            "token" => {
                headers["authorization"].to_str().unwrap_or_default().replace("Bearer ", "").into_response()
            }
            "refused" => {
                (StatusCode::BAD_REQUEST, r#"{"status":"error","error":"parse error"}"#).into_response()
            }
            "elsewhere" => Redirect::temporary("http://127.0.0.1:1/").into_response(),
            "large" => "x".repeat(MAX_ANSWER + 1).into_response(),
            other => panic!("{other}"),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/base", listener.local_addr().unwrap());
    let app = Router::new().route("/base/api/v1/query", post(answer));
    tokio::spawn(async { axum::serve(listener, app).await });
    let server = Prometheus::new(&url, None).unwrap();
    assert_eq!(server.value("fine").await, Ok(2.0));
    for (query, expected) in
        [("refused", "400 Bad Request parse error"), ("elsewhere", "307"), ("large", "cannot be read")]
    {
        let error = server.value(query).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let server = Prometheus::new(&url, Some(file.clone())).unwrap();
    assert!(server.value("fine").await.unwrap_err().contains("token file"));
    std::fs::write(&file, "secret\n").unwrap();
    assert_eq!(server.ask("token").await.unwrap(), "secret");
    let server = Prometheus::new("http://127.0.0.1:1", None).unwrap();
    assert!(server.value("fine").await.unwrap_err().contains("cannot be reached"));
}

#[tokio::test(start_paused = true)]
async fn a_query_is_evaluated_once_an_interval_and_says_why_it_fails() {
    let server = Prometheus::new("http://127.0.0.1:1", None).unwrap();
    let mut queries = Queries::default();
    let start = Instant::now();
    queries.set(&[query(0.0, 1.0, 100)], start);
    for round in 0..3 {
        let evaluation = queries.next(Some(&server)).await;
        assert_eq!(evaluation.anoms, 0);
        assert!(evaluation.subject.starts_with("errors/"));
        assert!(start.elapsed() >= Duration::from_secs(15 * round), "{:?}", start.elapsed());
    }
    assert_eq!(queries.fault().unwrap().0, "errors");
    // The same query keeps its schedule and its fault; one that is gone says nothing.
    queries.set(&[query(0.0, 1.0, 100)], Instant::now());
    assert!(queries.fault().is_some());
    queries.set(&[], Instant::now());
    assert!(queries.fault().is_none());
}
