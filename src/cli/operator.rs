//! `venom operator`: flags and start-up of the operator.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::log::{self, LogFormat};
use super::{Error, host_name, signals};
use crate::api::{ByteSize, GoDuration};
use crate::operator::budget::Limits;
use crate::operator::issuer::url::InvalidUrl;
use crate::operator::sensing::prometheus::Prometheus;
use crate::operator::{self, BodyOptions, Options};

/// Bounds of --write-budget. Far below it, intervals would grow beyond what a Duration holds.
const WRITE_BUDGET: RangeInclusive<f64> = 0.1..=1e6;
/// Bounds of --write-bytes.
const WRITE_BYTES: RangeInclusive<u64> = 1024..=1 << 30;

/// Bounds of --min-period.
const MIN_PERIOD: RangeInclusive<Duration> = Duration::from_micros(100)..=Duration::from_secs(10);

/// Least value of --pending-bytes.
const PENDING_BYTES: u64 = 1 << 20;

/// Arguments of `venom operator`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Namespaces to watch; repeat it or separate names by commas [default: all]
    #[arg(long = "namespace", short, value_name = "NAME", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Shortest period of beats, whatever spec.pulse asks for
    #[arg(long, value_name = "DURATION", default_value = "1ms")]
    pub min_period: GoDuration,
    /// Limit for periodic writes to the API server, per second; shared fairly by namespaces, then by their Organisms, as
    /// are the following limits
    #[arg(long, value_name = "RATE", default_value = "50/s", value_parser = per_second::<f64>)]
    pub write_budget: f64,
    /// Limit for the bytes of ledgers written, per second
    #[arg(long, value_name = "RATE", default_value = "512Ki/s", value_parser = per_second::<ByteSize>)]
    pub write_bytes: ByteSize,
    /// Limit for the size of all ledgers together in the cluster
    #[arg(long, value_name = "SIZE", default_value = "256Mi")]
    pub ledger_total_bytes: ByteSize,
    /// Limit for the memory of entries that wait to be committed, of all Organisms together. An Organism that reaches its
    /// share beats more slowly, and then not at all, until they are committed
    #[arg(long, value_name = "SIZE", default_value = "64Mi")]
    pub pending_bytes: ByteSize,
    /// Organisms that are taken up in each namespace, the oldest first; 0 means no limit
    #[arg(long, value_name = "COUNT", default_value = "1000")]
    pub max_organisms_per_namespace: usize,
    /// Image of the node pods, the same as the operator's; requires --issuer-url. Without it the operator creates no
    /// pods, Services or autoscalers, and P is spec.nodes.replicas
    #[arg(long, value_name = "IMAGE", env = "VENOM_NODE_IMAGE")]
    pub node_image: Option<String>,
    /// URL at which node pods request certificates from this operator: https://HOST:PORT/v1/certificates. The
    /// operator listens on that port
    #[arg(long, value_name = "URL", env = "VENOM_ISSUER_URL")]
    pub issuer_url: Option<String>,
    /// Bodies that replace their pods at a time, for example after an upgrade; the others wait
    #[arg(long, value_name = "COUNT", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rollouts: u16,
    /// URL of the Prometheus server that spec.sensing.prometheus queries, such as http://prometheus.monitoring.svc:9090
    #[arg(long, value_name = "URL", env = "VENOM_PROMETHEUS_URL")]
    pub prometheus_url: Option<String>,
    /// File with the bearer token for that server; it is read again for each query
    #[arg(long, value_name = "FILE", requires = "prometheus_url")]
    pub prometheus_token_file: Option<PathBuf>,
    /// Organisms whose pods may be isolated at a time. Decisions beyond it are recorded and not acted on [default: a tenth
    /// of all, and at least 3]
    #[arg(long, value_name = "COUNT")]
    pub quarantine_limit: Option<usize>,
    /// Address that serves /metrics, /healthz and /readyz; [::] means all addresses, those of IPv4 included
    #[arg(long, value_name = "ADDR", default_value = "[::]:8080")]
    pub metrics_addr: SocketAddr,
    /// Format of the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Identity of this operator in ledgers [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
}

/// Parses a rate per second: `50/s`, or `50`.
fn per_second<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| "write a rate per second, such as 50/s or 512Ki/s".to_owned())
}

impl Args {
    /// The identity of this operator in ledgers: `--identity`, or else the host name.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity.clone().or_else(host_name).unwrap_or_else(|| "venom operator".into())
    }

    fn check(&self) -> Result<(), Error> {
        if !WRITE_BUDGET.contains(&self.write_budget) {
            let (low, high) = (WRITE_BUDGET.start(), WRITE_BUDGET.end());
            return Err(Error::Usage(format!(
                "--write-budget must be {low}/s to {high}/s; leave it out for its default"
            )));
        }
        if !WRITE_BYTES.contains(&self.write_bytes.bytes()) {
            return Err(Error::Usage(
                "--write-bytes must be 1Ki/s to 1Gi/s; leave it out for its default".into(),
            ));
        }
        if !MIN_PERIOD.contains(&self.min_period.get()) {
            return Err(Error::Usage(
                "--min-period must be 100us to 10s; leave it out for its default".into(),
            ));
        }
        if self.pending_bytes.bytes() < PENDING_BYTES {
            return Err(Error::Usage(
                "--pending-bytes must be at least 1Mi; leave it out for its default".into(),
            ));
        }
        Ok(())
    }

    fn prometheus(&self) -> Result<Option<Prometheus>, Error> {
        let Some(url) = self.prometheus_url.as_ref().filter(|it| !it.is_empty()) else { return Ok(None) };
        let server = Prometheus::new(url, self.prometheus_token_file.clone());
        server.map(Some).map_err(|error| Error::Usage(format!("--prometheus-url {url}: {error}")))
    }

    /// The options for bodies. The two flags are given together or not at all.
    fn bodies(&self) -> Result<Option<BodyOptions>, Error> {
        // The chart sets an empty environment variable for a missing value.
        let non_empty = |value: &Option<String>| value.clone().filter(|it| !it.is_empty());
        match (non_empty(&self.node_image), non_empty(&self.issuer_url)) {
            (None, None) => Ok(None),
            (Some(node_image), Some(url)) => {
                let issuer_url = url.parse();
                let issuer_url =
                    issuer_url.map_err(|error| Error::Usage(format!("--issuer-url {url}: {error}")))?;
                Ok(Some(BodyOptions {
                    node_image,
                    issuer_url,
                    rollouts: self.rollouts.into(),
                    quarantine_limit: self.quarantine_limit,
                    prometheus: self.prometheus()?,
                }))
            }
            (Some(_), None) => Err(Error::Usage(format!(
                "--node-image requires --issuer-url for the certificates of the pods; {InvalidUrl}"
            ))),
            (None, Some(_)) => {
                Err(Error::Usage("--issuer-url requires --node-image; set both, or neither".into()))
            }
        }
    }
}

/// Runs the operator until SIGINT or SIGTERM.
///
/// # Errors
/// [`Error`] if the arguments are invalid or the operator fails.
pub fn run(args: &Args) -> Result<(), Error> {
    args.check()?;
    let bodies = args.bodies()?;
    log::start(args.log_format);
    let options = Options {
        namespaces: args.namespaces.clone(),
        identity: args.identity(),
        metrics_address: args.metrics_addr,
        limits: Limits {
            writes_per_second: args.write_budget,
            bytes_per_second: args.write_bytes.bytes(),
            ledger_total_bytes: args.ledger_total_bytes.bytes(),
            pending_bytes: args.pending_bytes.bytes(),
            min_period: args.min_period.get(),
        },
        max_organisms: args.max_organisms_per_namespace,
        bodies,
    };
    let failed = |error: &dyn std::fmt::Display| Error::Failed(error.to_string());
    let runtime = tokio::runtime::Runtime::new().map_err(|error| failed(&error))?;
    let done = runtime.block_on(async {
        let mut stop = signals::Stop::new().map_err(|error| failed(&error))?;
        operator::run(options, stop.requested()).await.map_err(|error| failed(&error))
    });
    // A call that hangs must not keep the process from ending.
    runtime.shutdown_background();
    done
}
