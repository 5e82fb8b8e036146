//! `venom inject`: injects, and retries until the injection is acknowledged.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use hyper::Uri;

use super::Error;
use super::output::{self, complain};
use crate::mesh::INJECTION_TTL;
use crate::node::client::{HttpResponse, post_json};
use crate::node::http::{InjectionRequest, InjectionResponse, new_injection_id};

/// Time limit of one request. Longer than the 5 s that a node waits for the outcome.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(200))
    .with_max_delay(MAX_DELAY)
    .without_max_times();
const MAX_DELAY: Duration = Duration::from_secs(2);

/// Arguments of `venom inject`.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Retries with the same id until the injection is acknowledged, for at most 10 minutes. An \
acknowledged injection is in the ledger exactly once, as the entry that is printed."
)]
pub struct Args {
    /// Anomalies to add to the risk window
    #[arg(long, value_name = "N")]
    anoms: Option<u64>,
    /// The model's weight from now on
    #[arg(long, value_name = "W")]
    ml_weight: Option<f64>,
    /// The injection's id [default: a new UUID]. An id that was injected before is not injected again
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A node's injection API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    url: Uri,
}

/// Injects, and prints the id and the ledger entry.
///
/// # Errors
/// [`Error`] if the arguments are invalid, or the injection was refused or not acknowledged in time.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.anoms.is_none() && args.ml_weight.is_none() {
        return Err(Error::Usage("nothing to inject; give --anoms, --ml-weight or both".into()));
    }
    let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
    let id = args.id.clone().unwrap_or_else(new_injection_id);
    let request = InjectionRequest { id: Some(id.clone()), anoms: args.anoms, ml_weight: args.ml_weight };
    let request = serde_json::to_vec(&request).map_err(|error| failed(&error))?;
    let base = args.url.to_string();
    let url: Uri = format!("{}/v1/injections", base.trim_end_matches('/'))
        .parse()
        .map_err(|error| Error::Usage(format!("--url {base}: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let entry = runtime.map_err(|error| failed(&error))?.block_on(until_acknowledged(&url, &id, &request))?;
    let mut out = output::text();
    out.line(format_args!("injected: {id} is entry {entry}"))?;
    out.finish()
}

async fn until_acknowledged(url: &Uri, id: &str, request: &[u8]) -> Result<u64, Error> {
    let began = Instant::now();
    let mut backoff = BACKOFF.build();
    let mut retrying = false;
    loop {
        let reason = match post_json(url, request, None, None, REQUEST_TIMEOUT).await {
            Ok(response) => match parse(&response) {
                (200, InjectionResponse { entry: Some(entry), .. }) => return Ok(entry),
                (202, _) => "not committed yet".to_owned(),
                (503, InjectionResponse { error, .. }) => error.unwrap_or_else(|| "busy".into()),
                (status, InjectionResponse { error, .. }) => {
                    let error = error.unwrap_or_else(|| format!("status {status}; is this a node?"));
                    return Err(Error::Failed(format!("{url}: {id}: {error}")));
                }
            },
            Err(error) => error,
        };
        if began.elapsed() > INJECTION_TTL {
            return Err(Error::Failed(format!(
                "{url}: {id}: not acknowledged within 10 minutes ({reason}); look in the ledger whether it was \
committed"
            )));
        }
        if !retrying {
            retrying = true;
            complain(&format!("{url}: {reason}; retrying with id {id}"));
        }
        tokio::time::sleep(backoff.next().unwrap_or(MAX_DELAY)).await;
    }
}

/// Status and body. The body is empty if the server is not a node.
fn parse(response: &HttpResponse) -> (u16, InjectionResponse) {
    (response.status, serde_json::from_slice(&response.body).unwrap_or_default())
}
