//! Instant queries of a Prometheus server, and what their results count as.
//!
//! Address and credentials are the operator's. A URL in a custom resource would let a tenant make the operator call
//! anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::api::PrometheusQuery;
use crate::printable::{QUOTE, line};

/// How long an evaluation may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 << 10;
/// Evaluations in flight, of all organisms together. Each organism has one at a time.
const IN_FLIGHT: usize = 8;
/// An answer whose time differs by more from that of this process is not of now, in seconds.
const STALE: f64 = 300.0;
/// A query that has failed is evaluated again after at most this wait.
const RETRY: Duration = Duration::from_secs(30);
/// Largest number of anomalies of one entry.
const MAX_ANOMS: f64 = 1e6;

/// A Prometheus server.
#[derive(Clone, Debug)]
pub struct Prometheus {
    endpoint: Uri,
    token_file: Option<PathBuf>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    places: Arc<Semaphore>,
}

/// `--prometheus-url` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// It is no URL of a server.
    #[error("must be a URL such as http://prometheus.monitoring.svc:9090")]
    Url,
    /// The certificates of the system's authorities cannot be read.
    #[error("the system's certificate authorities cannot be read: {0}")]
    Roots(std::io::Error),
}

impl Prometheus {
    /// The server at `url`. The file has a bearer token, which is read again for each query.
    ///
    /// # Errors
    /// [`PrometheusError`].
    pub fn new(url: &str, token_file: Option<PathBuf>) -> Result<Self, PrometheusError> {
        let base: Uri = url.trim_end_matches('/').parse().map_err(|_| PrometheusError::Url)?;
        let http = matches!(base.scheme_str(), Some("http" | "https")) && base.query().is_none();
        if !http || base.authority().is_none() {
            return Err(PrometheusError::Url);
        }
        let endpoint = format!("{}/api/v1/query", url.trim_end_matches('/'));
        let provider = rustls::crypto::ring::default_provider();
        let connector = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
        let connector = connector.map_err(PrometheusError::Roots)?;
        let client =
            Client::builder(TokioExecutor::new()).build(connector.https_or_http().enable_http1().build());
        Ok(Self {
            endpoint: endpoint.parse().map_err(|_| PrometheusError::Url)?,
            token_file,
            client,
            places: Arc::new(Semaphore::new(IN_FLIGHT)),
        })
    }

    /// Evaluates `query` now. The error is for the condition.
    async fn value(&self, query: &str) -> Result<f64, String> {
        let _place = self.places.acquire().await;
        match timeout(TIMEOUT, self.ask(query)).await {
            Ok(answer) => value(&answer?, k8s_openapi::jiff::Timestamp::now().as_second() as f64),
            Err(_) => Err(format!("Prometheus has not answered within {} s", TIMEOUT.as_secs())),
        }
    }

    async fn ask(&self, query: &str) -> Result<Bytes, String> {
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", query)
            .append_pair("timeout", &format!("{}s", TIMEOUT.as_secs()))
            .finish();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.endpoint)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(file) = &self.token_file {
            // A mounted Secret: a few bytes, in memory.
            let token = std::fs::read_to_string(file);
            let token = token.map_err(|error| {
                tracing::warn!(%error, file = %file.display(), "cannot read the token for Prometheus");
                "the operator's token file cannot be read; its log says why".to_owned()
            })?;
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.trim()));
        }
        let request = request.body(Full::from(body)).map_err(|error| error.to_string())?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| format!("Prometheus cannot be reached: {}", causes(&error)))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| format!("the answer cannot be read: {error}"))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        // Redirects are not followed: the token is meant for this server.
        let words =
            serde_json::from_slice::<Refusal>(&body).map(|it| line(&it.error, QUOTE)).unwrap_or_default();
        Err(format!("Prometheus answers {status} {words}").trim_end().to_owned())
    }
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let all = std::iter::successors(Some(error), |it| it.source());
    all.last().map(ToString::to_string).unwrap_or_default()
}

/// The value in the answer to an instant query, at `now` in seconds since 1970.
fn value(answer: &[u8], now: f64) -> Result<f64, String> {
    #[derive(Deserialize)]
    struct Answer {
        data: Data,
    }
    #[derive(Deserialize)]
    #[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
    enum Data {
        Scalar((f64, String)),
        Vector(Vec<Sample>),
        Matrix(serde::de::IgnoredAny),
        String(serde::de::IgnoredAny),
    }
    #[derive(Deserialize)]
    struct Sample {
        #[serde(default)]
        value: Option<(f64, String)>,
    }
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| format!("the answer is not one of Prometheus: {error}"))?;
    let (time, text) = match answer.data {
        Data::Scalar(sample) => sample,
        Data::Vector(samples) => {
            let count = samples.len();
            let mut samples = samples.into_iter();
            match (samples.next(), count) {
                (None, _) => {
                    return Err(
                        "it has no result: its series do not exist or are stale. Where that is normal, \
                                append `or vector(0)`"
                            .into(),
                    );
                }
                (Some(sample), 1) => sample.value.ok_or("its result is a histogram, not a number")?,
                (Some(_), count) => {
                    return Err(format!("it has {count} series; reduce them to one, such as by sum()"));
                }
            }
        }
        Data::Matrix(_) | Data::String(_) => {
            return Err("its result is neither a scalar nor an instant vector".into());
        }
    };
    if (now - time).abs() > STALE {
        return Err("its answer is minutes old, or the clocks of Prometheus and the operator differ".into());
    }
    let value: f64 = text.parse().map_err(|_| format!("its value {} is not a number", line(&text, QUOTE)))?;
    if value.is_finite() { Ok(value) } else { Err(format!("its value is {text}")) }
}

/// What a value counts as: min(max, (value − above) · anomsPerUnit), rounded; 0 up to `above`.
fn anoms(query: &PrometheusQuery, value: f64) -> u64 {
    let anoms = ((value - query.above) * query.anoms_per_unit).min(f64::from(query.max)).min(MAX_ANOMS);
    // NaN, of a huge difference times 0, is no anomaly either.
    if anoms > 0.0 { anoms.round() as u64 } else { 0 }
}

/// The result of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Name of the query and the time of the evaluation.
    pub subject: String,
    /// What the value counts as.
    pub anoms: u64,
}

/// The queries of one organism, and when they are due.
#[derive(Default)]
pub struct Queries {
    scheduled: Vec<Scheduled>,
    /// The one that is being evaluated, by its name. It goes on while something else is waited for.
    running: JoinSet<(String, Result<f64, String>)>,
}

struct Scheduled {
    query: PrometheusQuery,
    due: Instant,
    fault: Option<String>,
}

impl Queries {
    /// Takes over the queries of a spec. Those that stay keep their schedule.
    pub fn set(&mut self, queries: &[PrometheusQuery], now: Instant) {
        if self.scheduled.iter().map(|it| &it.query).eq(queries) {
            return;
        }
        let before = std::mem::take(&mut self.scheduled);
        let known = |query: &PrometheusQuery| before.iter().find(|it| it.query == *query);
        let scheduled = queries.iter().map(|query| Scheduled {
            query: query.clone(),
            due: known(query).map_or(now, |it| it.due),
            fault: known(query).and_then(|it| it.fault.clone()),
        });
        self.scheduled = scheduled.collect();
    }

    /// A query whose last evaluation has failed, and why.
    #[must_use]
    pub fn fault(&self) -> Option<(String, String)> {
        self.scheduled.iter().find_map(|it| Some((it.query.name.clone(), it.fault.clone()?)))
    }

    /// The next evaluation that has a value or has failed. Nothing is lost when this is dropped. Never returns without a
    /// server.
    pub async fn next(&mut self, server: Option<&Prometheus>) -> Evaluation {
        let Some(server) = server else { return std::future::pending().await };
        loop {
            if let Some(done) = self.running.join_next().await {
                let Ok((name, value)) = done else { continue };
                let Some(at) = self.scheduled.iter_mut().find(|it| it.query.name == name) else { continue };
                let now = k8s_openapi::jiff::Timestamp::now().as_second();
                let anoms = value.as_ref().map_or(0, |value| anoms(&at.query, *value));
                at.fault = value.err();
                if at.fault.is_some() {
                    at.due = at.due.min(Instant::now() + RETRY);
                }
                return Evaluation { subject: format!("{name}/{now}"), anoms };
            }
            let Some(next) = self.scheduled.iter_mut().min_by_key(|it| it.due) else {
                return std::future::pending().await;
            };
            sleep_until(next.due).await;
            // From now on: an operator that was late does not make up for it.
            next.due = Instant::now() + next.query.interval.get();
            let (server, query) = (server.clone(), next.query.clone());
            self.running.spawn(async move { (query.name, server.value(&query.query).await) });
        }
    }
}

#[cfg(test)]
mod tests;
