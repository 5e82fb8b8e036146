//! A connection to a cluster.

use std::path::PathBuf;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::runtime::Runtime;

use super::super::Error;

/// Arguments that select a cluster, as with kubectl.
#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// Namespace of the Organism [default: the context's]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig [default: $KUBECONFIG, ~/.kube/config, or the pod's own account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// A client, the namespace it is for, and the runtime that its calls run on.
pub(in crate::cli) struct Connection {
    /// The runtime.
    pub runtime: Runtime,
    /// The client.
    pub client: Client,
    /// `--namespace`, or that of the context.
    pub namespace: String,
}

impl Cluster {
    /// The flags that were given, and their values.
    pub(super) fn flags(&self) -> Vec<(&'static str, String)> {
        let path = self.kubeconfig.as_ref().map(|path| path.display().to_string());
        let all =
            [("-n", self.namespace.clone()), ("--context", self.context.clone()), ("--kubeconfig", path)];
        all.into_iter().filter_map(|(flag, value)| Some((flag, value?))).collect()
    }

    /// Connects to the cluster. No call is made yet.
    pub(in crate::cli) fn connect(&self) -> Result<Connection, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Error::Failed(format!("cannot start the runtime: {error}")))?;
        let (client, namespace) = runtime.block_on(async {
            let config = self.config().await.map_err(|error| failed("kubeconfig", &error))?;
            let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
            let client = Client::try_from(config).map_err(|error| failed("kubeconfig", &error))?;
            Ok::<_, Error>((client, namespace))
        })?;
        Ok(Connection { runtime, client, namespace })
    }

    /// Loads the kubeconfig by kubectl's rules.
    async fn config(&self) -> Result<Config, Box<dyn std::error::Error>> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        Ok(match &self.kubeconfig {
            Some(path) => Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &options).await?,
            None if self.context.is_some() => Config::from_kubeconfig(&options).await?,
            None => Config::infer().await?,
        })
    }
}

/// The error about `name`, in one line: errors of the API server may have several.
pub(in crate::cli) fn failed(name: &str, error: &dyn std::fmt::Display) -> Error {
    let line = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    Error::Failed(format!("{name}: {line}"))
}

/// The name in `organism/NAME`, and in the spellings of kubectl.
pub(in crate::cli) fn organism_name(source: &str) -> Option<&str> {
    ["organism/", "organisms/", "org/"].iter().find_map(|it| source.strip_prefix(it))
}
