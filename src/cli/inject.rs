//! `venom inject`: an injection, tried again until it is acknowledged.

use std::io::Write;
use std::time::{Duration, Instant};

use hyper::Uri;

use super::{Error, complain, stdout};
use crate::mesh::INJECTION_TTL;
use crate::node::client::{Answer, post};
use crate::node::door::{Ask, Told, new_id};

/// A node keeps a client waiting for 5 s.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What `venom inject` takes.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Tries again with the same id until the injection is acknowledged, for 10 minutes: then \
it is in the ledger, once, as the entry that is printed."
)]
pub struct Args {
    /// Anomalies, which count for the risk window
    #[arg(long, value_name = "N")]
    anoms: Option<u64>,
    /// Weight of the model from now on
    #[arg(long, value_name = "W")]
    ml_weight: Option<f64>,
    /// The injection's id; a UUID is made. One that was tried before is not injected again
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A node's door for injections
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    url: Uri,
}

/// Injects, and prints id and entry.
///
/// # Errors
/// [`Error`].
pub fn run(args: &Args) -> Result<(), Error> {
    if args.anoms.is_none() && args.ml_weight.is_none() {
        return Err(Error::Usage("nothing to inject; give --anoms, --ml-weight or both".into()));
    }
    let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
    let id = args.id.clone().unwrap_or_else(new_id);
    let ask = Ask { id: Some(id.clone()), anoms: args.anoms, ml_weight: args.ml_weight };
    let ask = serde_json::to_vec(&ask).map_err(|error| failed(&error))?;
    let base = args.url.to_string();
    let url: Uri = format!("{}/v1/injections", base.trim_end_matches('/'))
        .parse()
        .map_err(|error| Error::Usage(format!("--url {base}: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let entry = runtime.map_err(|error| failed(&error))?.block_on(until_acknowledged(&url, &id, &ask))?;
    let mut out = stdout();
    writeln!(out, "injected: {id} is entry {entry}")?;
    Ok(out.flush()?)
}

async fn until_acknowledged(url: &Uri, id: &str, ask: &[u8]) -> Result<u64, Error> {
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut told = false;
    loop {
        let why = match post(url, ask, None, None, PATIENCE).await {
            Ok(answer) => match understood(&answer) {
                (200, Told { entry: Some(entry), .. }) => return Ok(entry),
                (202, _) => "not in the ledger yet".to_owned(),
                (503, Told { error, .. }) => error.unwrap_or_else(|| "busy".into()),
                (status, Told { error, .. }) => {
                    let error = error.unwrap_or_else(|| format!("answered {status}; is this a node?"));
                    return Err(Error::Failed(format!("{url}: {id}: {error}")));
                }
            },
            Err(why) => why,
        };
        if began.elapsed() > INJECTION_TTL {
            return Err(Error::Failed(format!(
                "{url}: {id}: not acknowledged in 10 minutes ({why}); whether it is in the ledger, only the \
ledger says"
            )));
        }
        if !told {
            told = true;
            complain(&format!("{url}: {why}; trying again with id {id}"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn understood(answer: &Answer) -> (u16, Told) {
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}
