//! The certificate issuer: which requests it grants and which it denies.
//!
//! There is no kubelet: the controllers of the cluster create the pods of a body, and the tests request the tokens that a
//! kubelet would request.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::Kubeconfig;
use kube::{Client, ResourceExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use venom::api::Organism;
use venom::mesh::certificate_request::{CertificateRequest, CertificateResponse};
use venom::mesh::identity::generate_key_and_csr;
use venom::node::certificate_source::{CertificateSource, IssuerEndpoint};
use venom::node::client::{HttpResponse, post_json};
use venom::operator::certificates::{CA_SECRET, Certificates};

use crate::harness::{eventually, free_port};
use crate::http::get;
use crate::operator::Operator;
use crate::world::{World, in_world};

const AUDIENCE: &str = "genesis.venom.dev/node";
/// The audience of the API server in the test clusters.
const API_SERVER: &str = "https://kubernetes.default.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(20);

/// A world whose operators use its namespace as their own, with a folder for files.
struct Site {
    world: World,
    folder: TempDir,
    metrics: String,
}

impl Site {
    fn new(mut world: World) -> Self {
        let folder = TempDir::new().unwrap();
        // These tests use IPv6 only, the others IPv4.
        world.issuer_url = world.issuer_url.replace("127.0.0.1", "[::1]");
        // Outside a cluster, an operator's own namespace is that of its kubeconfig.
        let mut config = match &world.kubeconfig {
            Some(path) => Kubeconfig::read_from(path).unwrap(),
            None => Kubeconfig::from_env().unwrap().unwrap(),
        };
        for context in config.contexts.iter_mut().filter_map(|it| it.context.as_mut()) {
            context.namespace = Some(world.namespace.clone());
        }
        std::fs::write(folder.path().join("kubeconfig"), serde_yaml::to_string(&config).unwrap()).unwrap();
        Self { world, folder, metrics: format!("[::1]:{}", free_port()) }
    }

    fn operator(&self, identity: &str) -> Operator {
        let config = self.folder.path().join("kubeconfig");
        let bodies = ["--node-image", "localhost/venom:test", "--issuer-url", &*self.world.issuer_url];
        let args = [&bodies[..], &["--metrics-addr", &self.metrics]].concat();
        Operator::start(&self.world.namespace, identity, Some(&config), &args)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.world.client.clone(), &self.world.namespace)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Two pods of this Organism, created by the cluster.
    async fn pods(&self, organism: &str) -> [Pod; 2] {
        let of = ListParams::default().labels(&format!("genesis.venom.dev/organism={organism}"));
        eventually(&format!("pods of {organism}"), async || {
            let mut pods = self.api::<Pod>().list(&of).await.map_err(|error| error.to_string())?.items;
            pods.truncate(2);
            pods.try_into().map_err(|pods: Vec<Pod>| pods.len().to_string())
        })
        .await
    }

    async fn pod(&self, organism: &str) -> Pod {
        let [pod, _] = self.pods(organism).await;
        pod
    }

    /// Creates a pod with this service account.
    async fn made(&self, name: &str, account: &str) -> Pod {
        let pod = json!({
            "metadata": {"name": name, "labels": {"genesis.venom.dev/organism": "venom"}},
            "spec": {"serviceAccountName": account, "containers": [{"name": "node", "image": "localhost/venom:test"}]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.api().create(&PostParams::default(), &pod).await.unwrap()
    }

    /// Requests a token as a kubelet does.
    async fn token(&self, account: &str, audience: &str, pod: Option<&Pod>) -> String {
        let bound = pod.map(|pod| BoundObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
        });
        let spec = TokenRequestSpec {
            audiences: Some(vec![audience.into()]),
            bound_object_ref: bound,
            expiration_seconds: Some(600),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let accounts: Api<ServiceAccount> = self.api();
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        made.status.unwrap().token.unwrap()
    }

    /// The CA certificates as published to the nodes of the Organism.
    async fn ca(&self) -> String {
        eventually("the authority's ConfigMap", async || {
            let found = self.api::<ConfigMap>().get_opt("venom-mesh-ca").await;
            let found = found.map_err(|error| error.to_string())?.ok_or("none")?;
            found.data.unwrap_or_default().remove("ca.pem").ok_or_else(|| "empty".into())
        })
        .await
    }

    /// The certificate source of a node.
    async fn source(&self, account: &str, token: &str) -> CertificateSource {
        CertificateSource::Issuer(IssuerEndpoint {
            url: self.world.issuer_url.parse().unwrap(),
            token_file: self.file(&format!("token-of-{account}"), token),
            ca_file: self.file("ca.pem", &self.ca().await),
        })
    }

    /// Sends a request with this token and body.
    async fn ask(&self, ca: &str, token: Option<&str>, body: &[u8]) -> Result<HttpResponse, String> {
        let mut roots = RootCertStore::empty();
        roots.add(der(ca)).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        let tls = tls.unwrap().with_root_certificates(roots).with_no_client_auth();
        let bearer = token.map(|token| format!("Bearer {token}"));
        let url = self.world.issuer_url.parse().unwrap();
        post_json(&url, body, bearer.as_deref(), Some(tls), PATIENCE).await
    }

    /// The number of denied requests by reason.
    fn refused(&self) -> BTreeMap<String, u64> {
        let (_, text) = get(&self.metrics, "/metrics").unwrap();
        let counted = text.lines().filter_map(|line| {
            let line = line.strip_prefix("venom_certificates_refused_total{reason=\"")?;
            let (reason, count) = line.split_once("\"} ")?;
            Some((reason.to_owned(), count.parse().unwrap()))
        });
        counted.collect()
    }
}

async fn on_site(test: impl AsyncFnOnce(Site)) {
    in_world(async |world| test(Site::new(world)).await).await;
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// A certificate signing request and its private key.
fn csr() -> (String, Vec<u8>) {
    let (key, csr) = generate_key_and_csr().unwrap();
    (key, serde_json::to_vec(&CertificateRequest { csr }).unwrap())
}

/// Whether this authority signed the certificate.
fn is_signed_by(ca: &str, certificate: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(der(ca)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    verifier.verify_client_cert(&der(certificate), &[], UnixTime::now()).is_ok()
}

/// A node's certificate names its pod and its Organism, and stays valid after the operator that signed it is gone.
#[tokio::test]
async fn a_node_is_issued_a_certificate() {
    on_site(async |site| {
        let mut operator = site.operator("alpha");
        for name in ["venom", "other"] {
            site.world.create::<Organism>(name, json!({"pulse": {"minPeriod": "100ms"}})).await;
        }
        let mut first = None;
        for name in ["venom", "other"] {
            let pod = site.pod(name).await;
            let token = site.token(name, AUDIENCE, Some(&pod)).await;
            let source = site.source(name, &token).await;
            // The operator may take the Organism over shortly after its pods exist.
            let credentials = eventually("a certificate", async || {
                source.obtain().await.map_err(|error| error.to_string())
            })
            .await;
            let organism = site.world.organisms.get(name).await.unwrap().uid().unwrap();
            let expected = format!("spiffe://venom/org/{organism}/pod/{}", pod.uid().unwrap());
            assert_eq!(credentials.identity.to_string(), expected);
            let left = credentials.not_after.duration_since(SystemTime::now()).unwrap();
            assert!(left > Duration::from_secs(86_000) && left <= Duration::from_secs(86_400), "{left:?}");
            first.get_or_insert((source, token, credentials));
        }
        let (source, token, credentials) = first.unwrap();
        let ca = site.ca().await;
        let answer = site.ask(&ca, Some(&token), &csr().1).await.unwrap();
        let before = serde_json::from_slice::<CertificateResponse>(&answer.body).unwrap().certificate;
        assert!(is_signed_by(&ca, &before));
        let secret = site.api::<Secret>().get(CA_SECRET).await.unwrap();

        operator.kill();
        let _operator = site.operator("beta");
        let again = eventually("a certificate again", async || {
            source.obtain().await.map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(again.identity, credentials.identity);
        let now = site.api::<Secret>().get(CA_SECRET).await.unwrap();
        assert_eq!(now.resource_version(), secret.resource_version(), "it was written again");
        assert_eq!(site.ca().await, ca);
        assert!(is_signed_by(&ca, &before), "the old certificate is still good");
    })
    .await;
}

/// Requests that do not come from a node are denied with a reason and counted.
#[tokio::test]
async fn requests_from_other_pods_are_denied() {
    on_site(async |site| {
        let operator = site.operator("alpha");
        site.world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "100ms"}})).await;
        // A finalizer keeps one of the pods, so that its token stays valid while it is being deleted.
        let [pod, going] = site.pods("venom").await;
        let (good, ca) = (site.token("venom", AUDIENCE, Some(&pod)).await, site.ca().await);
        let (_, body) = csr();
        eventually("a certificate", async || match site.ask(&ca, Some(&good), &body).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        // A foreign pod with the Organism's service account, and one with another account.
        let stray = site.made("stray", "venom").await;
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "stranger"}})).unwrap();
        site.api::<ServiceAccount>().create(&PostParams::default(), &account).await.unwrap();
        let strangers = site.made("strangers", "stranger").await;
        let of_going = site.token("venom", AUDIENCE, Some(&going)).await;
        let finalizers = |value: Value| Patch::Merge(json!({"metadata": {"finalizers": value}}));
        let params = PatchParams::default();
        let hold = finalizers(json!(["venom.test/hold"]));
        site.api::<Pod>().patch(&going.name_any(), &params, &hold).await.unwrap();
        site.api::<Pod>().delete(&going.name_any(), &DeleteParams::default().grace_period(0)).await.unwrap();

        let mut expected = site.refused();
        let mut refused = async |what: &str, token: Option<&str>, body: &[u8], status: u16, reason: &str| {
            let answer = site.ask(&ca, token, body).await;
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            let text = String::from_utf8_lossy(&answer.body);
            println!("{what}: {} {}", answer.status, text.trim_end());
            assert_eq!(answer.status, status, "{what}: {text}");
            assert_eq!(text.lines().count(), 1, "{what}: {text}");
            assert!(!text.contains(&site.world.namespace), "{what} says more than was asked: {text}");
            *expected.entry(reason.to_owned()).or_default() += 1;
        };
        let token = site.token("venom", "somebody", Some(&stray)).await;
        refused("another audience", Some(&token), &body, 401, "token").await;
        let token = site.token("venom", API_SERVER, Some(&pod)).await;
        refused("the API server's audience", Some(&token), &body, 401, "token").await;
        let token = site.token("venom", AUDIENCE, None).await;
        refused("no pod", Some(&token), &body, 403, "unbound").await;
        let token = site.token("venom", AUDIENCE, Some(&stray)).await;
        refused("not of the workload", Some(&token), &body, 403, "workload").await;
        let token = site.token("stranger", AUDIENCE, Some(&strangers)).await;
        refused("no Organism's account", Some(&token), &body, 403, "organism").await;
        refused("a pod that is going", Some(&of_going), &body, 403, "pod").await;
        refused("garbage", Some("garbage"), &body, 401, "token").await;
        refused("no token", None, &body, 401, "no_token").await;
        refused("a long body", Some(&good), &vec![b' '; 1 << 20], 413, "too_long").await;
        refused("no JSON", Some(&good), b"{", 400, "body").await;
        refused("no request", Some(&good), br#"{"csr": "me"}"#, 400, "request").await;
        assert_eq!(site.refused(), expected);

        // The token of a deleted pod is invalid, and a new pod of the same name is another pod.
        site.api::<Pod>().patch(&going.name_any(), &params, &finalizers(Value::Null)).await.unwrap();
        eventually("401 for a deleted pod", async || match site.ask(&ca, Some(&of_going), &body).await {
            Ok(answer) if answer.status == 401 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let tokens = operator.log().matches("reason=\"token\"").count();
        assert_eq!(tokens, 1, "told once a minute: {}", operator.log());
        assert!(site.source("venom", &good).await.obtain().await.is_ok(), "a node still gets one");
    })
    .await;
}

/// More idle connections than there are places, again and again: a node gets its certificate all the while.
#[tokio::test]
async fn idle_connections_give_way() {
    on_site(async |site| {
        let _operator = site.operator("alpha");
        site.world.create::<Organism>("venom", Value::Null).await;
        let token = site.token("venom", AUDIENCE, Some(&site.pod("venom").await)).await;
        let source = site.source("venom", &token).await;
        eventually("a certificate", async || source.obtain().await.map_err(|error| error.to_string())).await;
        let address = site.world.issuer_url.split('/').nth(2).unwrap().to_owned();
        let mut idle = vec![];
        for _ in 0..4 {
            for _ in 0..300 {
                idle.push(tokio::net::TcpStream::connect(&address).await.unwrap());
            }
            source.obtain().await.unwrap();
        }
        eventually("all displaced or timed out", async || {
            let refused = site.refused();
            let count = |reason: &str| refused.get(reason).copied().unwrap_or_default();
            let ended = count("busy") + count("handshake");
            if count("busy") >= 44 && ended >= 1_200 { Ok(()) } else { Err(format!("{refused:?}")) }
        })
        .await;
        drop(idle);
    })
    .await;
}

/// Operators that start concurrently agree on one authority. An unreadable one is not overwritten.
#[tokio::test]
async fn concurrent_operators_share_one_authority() {
    on_site(async |site| {
        let load = |client: Client| {
            let namespace = site.world.namespace.clone();
            async move { Certificates::load(client, &namespace).await.unwrap().ca_pem() }
        };
        let all: Vec<String> =
            futures::future::join_all((0..8).map(|_| load(site.world.client.clone()))).await;
        assert!(all.iter().all(|ca| *ca == all[0]));

        let secrets = site.api::<Secret>();
        secrets.delete(CA_SECRET, &DeleteParams::default()).await.unwrap();
        let broken = json!({"metadata": {"name": CA_SECRET}, "stringData": {"ca.pem": all[0]}});
        let broken: Secret = serde_json::from_value(broken).unwrap();
        let made = secrets.create(&PostParams::default(), &broken).await.unwrap();
        let mut operator = site.operator("alpha");
        assert_eq!(operator.ended().await.code(), Some(1));
        let log = operator.log();
        let said = log.lines().last().unwrap();
        println!("{said}");
        let object = format!("Secret {}/{CA_SECRET}: it has no key ca.key", site.world.namespace);
        assert!(said.contains(&object) && said.contains("delete it"), "{said}");
        let there = secrets.get(CA_SECRET).await.unwrap();
        assert_eq!(there.resource_version(), made.resource_version());
    })
    .await;
}

/// The Secret of the authority is deleted while the operator runs: it is created again with the same key, and that is told.
#[tokio::test]
async fn a_secret_lost_under_a_running_operator_is_created_again() {
    on_site(async |site| {
        let _operator = site.operator("alpha");
        let secrets = site.api::<Secret>();
        let secret = eventually("the authority", async || {
            secrets.get_opt(CA_SECRET).await.map_err(|error| error.to_string())?.ok_or_else(|| "none".into())
        })
        .await;
        secrets.delete(CA_SECRET, &DeleteParams::default()).await.unwrap();
        let again = eventually("the Secret again", async || {
            secrets.get_opt(CA_SECRET).await.map_err(|error| error.to_string())?.ok_or_else(|| "none".into())
        })
        .await;
        assert_eq!(again.data, secret.data);
        told_of_the_loss(&site, "was deleted and is created again").await;
    })
    .await;
}

/// The Secret is lost between two operators. The new authority's certificates and the old one's are trusted together, and a
/// node takes a new certificate when its bundle changes.
#[tokio::test]
async fn a_secret_lost_without_an_operator_does_not_split_the_mesh() {
    on_site(async |site| {
        let mut operator = site.operator("alpha");
        site.world.create::<Organism>("venom", json!({"pulse": {"minPeriod": "100ms"}})).await;
        let token = site.token("venom", AUDIENCE, Some(&site.pod("venom").await)).await;
        let old = site.ca().await;
        let source = site.source("venom", &token).await;
        eventually("a certificate", async || source.obtain().await.map_err(|error| error.to_string())).await;
        assert!(operator.terminate().await.success());
        site.api::<Secret>().delete(CA_SECRET, &DeleteParams::default()).await.unwrap();

        let mut operator = site.operator("beta");
        let both = eventually("both authorities in the bundle", async || {
            let bundle = site.ca().await;
            let count = bundle.matches("BEGIN CERTIFICATE").count();
            if count == 2 && bundle.ends_with(&old) { Ok(bundle) } else { Err(format!("{count}")) }
        })
        .await;
        told_of_the_loss(&site, "was lost. A new certificate authority was created").await;
        let source = site.source("venom", &token).await;
        eventually("a certificate of the new one", async || {
            source.obtain().await.map_err(|error| error.to_string())
        })
        .await;
        // A restart keeps both, and says nothing again.
        assert!(operator.terminate().await.success());
        let certificates =
            Certificates::load(site.world.client.clone(), &site.world.namespace).await.unwrap();
        assert_eq!((certificates.ca_pem(), certificates.lost()), (both, None));
    })
    .await;
}

/// Waits for the Event and the count of a loss.
async fn told_of_the_loss(site: &Site, told: &str) {
    use k8s_openapi::api::events::v1::Event;
    eventually("an Event", async || {
        let events =
            site.api::<Event>().list(&Default::default()).await.map_err(|error| error.to_string())?;
        let notes: Vec<_> = events
            .items
            .iter()
            .filter(|it| {
                it.reason.as_deref() == Some("AuthorityLost") && it.type_.as_deref() == Some("Warning")
            })
            .map(|it| it.note.clone().unwrap_or_default())
            .collect();
        if notes.len() == 1 && notes[0].contains(told) { Ok(()) } else { Err(format!("{notes:?}")) }
    })
    .await;
    assert_eq!(crate::http::metric_of(&site.metrics, "venom_mesh_ca_lost_total"), 1.0);
}
