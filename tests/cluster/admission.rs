//! Validation by the CRD schemas: which manifests the API server accepts, and the messages for those it rejects.
//!
//! Manifests are created with strict field validation, as by kubectl. The YAML is sent unchanged, so that no client code
//! interprets a number or a null first.
use kube::core::Request;
use kube::{Api, Client, Error, Resource};
use serde_json::Value;
use venom::api::{Genome, GenomeSpec, Organism, OrganismSpec, document, read, validate};

use crate::harness::{API_VERSION, in_namespace};

/// The problem, the manifest, and a part of the expected message.
fn rejected() -> Vec<(&'static str, String, &'static str)> {
    vec![
        // Names.
        ("name too long", named("Organism", &"a".repeat(41)), "metadata.name must be at most 40 characters"),
        ("name with a dot", named("Organism", "venom.eu"), "choose a name such as venom-1"),
        ("upper case", named("Genome", "Venom"), "lower-case letters, digits and '-'"),
        ("name begins with a digit", named("Genome", "1venom"), "begin with a letter"),
        ("name ends with a dash", named("Organism", "venom-"), "end with a letter or digit"),
        (
            "reference to a name with a dot",
            organism("genomeRef: {name: venom.eu}"),
            "spec.genomeRef.name must be at most 40 characters",
        ),
        ("reference to nothing", organism("genomeRef: {name: ''}"), "spec.genomeRef.name must be"),
        ("reference without a name", organism("genomeRef: {}"), "spec.genomeRef.name: Required value"),
        // Unknown fields and wrong types, with messages of the API server.
        ("unknown field", organism("puls: {k: 4}"), r#"unknown field "spec.puls""#),
        (
            "unknown field below",
            organism("pulse: {minperiod: 1s}"),
            r#"unknown field "spec.pulse.minperiod""#,
        ),
        ("a field not there yet", organism("later: {}"), r#"unknown field "spec.later""#),
        (
            "nodes and a workload",
            organism("{workloadRef: {kind: Deployment, name: shop}, nodes: {replicas: 3}}"),
            "spec.nodes must be left out with spec.workloadRef",
        ),
        (
            "workload of another kind",
            organism("workloadRef: {kind: DaemonSet, name: a}"),
            "Unsupported value",
        ),
        ("mode", organism("response: {mode: Dry}"), "Unsupported value"),
        (
            "releaseAfter",
            organism("response: {releaseAfter: 25h}"),
            "spec.response.releaseAfter must be 0s (at once) or a duration of 1ms to 24h",
        ),
        (
            "weight",
            organism("sensing: {weights: {oomKill: 1001}}"),
            "spec.sensing.weights.oomKill must be 0 to 1000",
        ),
        (
            "query name",
            organism("sensing: {prometheus: [{name: Errors, query: up}]}"),
            "spec.sensing.prometheus: name must be at most 40 characters",
        ),
        (
            "query interval",
            organism("sensing: {prometheus: [{name: a, query: up, interval: 0s}]}"),
            "spec.sensing.prometheus: interval must be a duration of 1ms to 24h",
        ),
        (
            "query twice",
            organism("sensing: {prometheus: [{name: a, query: b}, {name: a, query: c}]}"),
            "Duplicate",
        ),
        ("field twice", organism("{beats: 1, beats: 2}"), r#"key "beats" already set"#),
        ("text for a number", genome("pid: {kp: '0.6'}"), "spec.pid.kp in body must be of type number"),
        ("NaN in quotes", genome("pid: {kp: 'NaN'}"), "spec.pid.kp in body must be of type number"),
        ("NaN", genome("pid: {kp: .nan}"), "NaN"),
        ("infinity", organism("pulse: {u: .inf}"), "Inf"),
        ("beyond a double", organism("pulse: {u: 1e400}"), "spec.pulse.u in body must be of type number"),
        (
            "half a node",
            organism("nodes: {replicas: 2.5}"),
            "spec.nodes.replicas in body must be of type int32",
        ),
        ("text for a switch", organism("suspend: 'yes'"), "spec.suspend in body must be of type boolean"),
        ("number for an object", organism("pulse: 4"), "spec.pulse in body must be of type object"),
        ("number for a size", organism("ledger: {retain: {bytes: 4194304}}"), "must be of type string"),
        ("number for a duration", organism("pulse: {minPeriod: 1}"), "must be of type string"),
        ("another word", genome("evolution: Off"), r#"supported values: "Enabled", "Frozen""#),
        ("lower case", organism("ledger: {onDelete: retain}"), r#"supported values: "Delete", "Retain""#),
        // Organism.
        (
            "beats 0",
            organism("beats: 0"),
            "spec.beats must be -1 (no limit) or at least 1; to stop the organism from",
        ),
        ("beats -2", organism("beats: -2"), "spec.beats must be -1 (no limit) or at least 1"),
        (
            "k 1",
            organism("pulse: {k: 1}"),
            "spec.pulse.k: Invalid value: 1: k must be at least 2: with one ready node k·P would be 1 and T_Λ undefined",
        ),
        ("k 0", organism("pulse: {k: 0}"), "k must be at least 2: with one ready node"),
        ("k -4", organism("pulse: {k: -4}"), "k must be at least 2: with one ready node"),
        ("k 1001", organism("pulse: {k: 1001}"), "spec.pulse.k must be at most 1000; write 2 to 1000"),
        ("t1 0", organism("pulse: {t1: 0}"), "spec.pulse.t1 must be 0.000000001 to 60 (seconds); write"),
        ("t1 negative", organism("pulse: {t1: -0.001}"), "spec.pulse.t1 must be 0.000000001 to 60"),
        ("t1 too long", organism("pulse: {t1: 60.0001}"), "spec.pulse.t1 must be 0.000000001 to 60"),
        ("u 1", organism("pulse: {u: 1}"), "spec.pulse.u must be above 1 (ln(u) must be positive)"),
        ("u too large", organism("pulse: {u: 1000001}"), "at most 1000000; e^4 is 54.598150033144236"),
        (
            "period 0",
            organism("pulse: {minPeriod: 0s}"),
            "spec.pulse.minPeriod must be a duration of 1ms to 24h",
        ),
        (
            "period without a unit",
            organism("pulse: {minPeriod: '1'}"),
            "write it with its unit, such as 500ms",
        ),
        (
            "period below 1 ms",
            organism("pulse: {minPeriod: 999us}"),
            "spec.pulse.minPeriod must be a duration",
        ),
        ("period above a day", organism("pulse: {minPeriod: 24h0.1s}"), "spec.pulse.minPeriod must be"),
        ("period beyond Go", organism("pulse: {minPeriod: 9999999999h}"), "spec.pulse.minPeriod must be"),
        ("period in days", organism("pulse: {minPeriod: 1d}"), "spec.pulse.minPeriod must be"),
        ("replicas -1", organism("nodes: {replicas: -1}"), "spec.nodes.replicas: Invalid value: -1"),
        (
            "replicas 1001",
            organism("nodes: {replicas: 1001}"),
            "spec.nodes.replicas must be 0 to 1000; write",
        ),
        (
            "no quantity",
            organism("nodes: {resources: {requests: {cpu: fast}}}"),
            "spec.nodes.resources.requests must be non-negative quantities, such as cpu: 500m",
        ),
        (
            "a negative quantity",
            organism("nodes: {resources: {limits: {memory: -1Gi}}}"),
            "spec.nodes.resources.limits must be non-negative quantities",
        ),
        (
            "a request above its limit",
            organism("nodes: {resources: {requests: {cpu: 2}, limits: {cpu: 500m}}}"),
            "spec.nodes.resources.requests must not exceed the limits of the same resource; raise the limit or",
        ),
        (
            "nothing to scale by",
            organism("nodes: {resources: {requests: {memory: 1Mi}, limits: {memory: 1Mi}}}"),
            "spec.nodes.resources.requests.cpu is required for autoscaling on CPU; set it, or set",
        ),
        (
            "a label too long",
            organism(&format!("nodes: {{nodeSelector: {{a: {}}}}}", "b".repeat(64))),
            "spec.nodes.nodeSelector.a: Too long",
        ),
        (
            "too many tolerations",
            organism(&format!("nodes: {{tolerations: [{}]}}", "{operator: Exists},".repeat(17))),
            "spec.nodes.tolerations: Too many",
        ),
        (
            "a toleration of nothing",
            organism("nodes: {tolerations: [{value: a}]}"),
            "operator must be Exists when key is empty; set the key",
        ),
        (
            "a toleration of any value and one",
            organism("nodes: {tolerations: [{key: a, operator: Exists, value: b}]}"),
            "value is allowed only with operator Equal; remove it",
        ),
        (
            "a toleration of seconds",
            organism("nodes: {tolerations: [{key: a, tolerationSeconds: 5}]}"),
            "tolerationSeconds is allowed only with effect NoExecute",
        ),
        (
            "spread twice",
            organism(&format!(
                "nodes: {{topologySpreadConstraints: [{}]}}",
                "{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule},".repeat(2)
            )),
            "spec.nodes.topologySpreadConstraints[1]: Duplicate value",
        ),
        (
            "spread by nothing",
            organism("nodes: {topologySpreadConstraints: [{maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]}"),
            "spec.nodes.topologySpreadConstraints[0].topologyKey: Required value",
        ),
        (
            "skew 0",
            organism(
                "nodes: {topologySpreadConstraints: [{maxSkew: 0, topologyKey: a, whenUnsatisfiable: DoNotSchedule}]}",
            ),
            "spec.nodes.topologySpreadConstraints: maxSkew must be 1 to 1000; write",
        ),
        (
            "a class that is no name",
            organism("nodes: {priorityClassName: High}"),
            "spec.nodes.priorityClassName must be the name of a PriorityClass",
        ),
        (
            "a key of the operator among the pods' labels",
            organism("nodes: {podTemplate: {labels: {genesis.venom.dev/organism: other}}}"),
            "spec.nodes.podTemplate.labels must not have keys that begin with genesis.venom.dev/, which are reserved for",
        ),
        (
            "a key of the operator among the pods' annotations",
            organism("nodes: {podTemplate: {annotations: {genesis.venom.dev/x: a}}}"),
            "spec.nodes.podTemplate.annotations must not have keys that begin with genesis.venom.dev/",
        ),
        (
            "a label key with a space",
            organism("nodes: {podTemplate: {labels: {'a b': c}}}"),
            "spec.nodes.podTemplate.labels must have keys such as team or example.com/team: an optional",
        ),
        (
            "a label key with an upper-case prefix",
            organism("nodes: {podTemplate: {labels: {Example.com/team: a}}}"),
            "spec.nodes.podTemplate.labels must have keys such as team",
        ),
        (
            "a label key too long",
            organism(&format!("nodes: {{podTemplate: {{labels: {{{}: c}}}}}}", "a".repeat(64))),
            "spec.nodes.podTemplate.labels must have keys such as team",
        ),
        (
            "a label value with a space",
            organism("nodes: {podTemplate: {labels: {a: b c}}}"),
            "spec.nodes.podTemplate.labels must have values of at most 63 letters, digits, '-', '_' and '.' that begin",
        ),
        (
            "an annotation key with two slashes",
            organism("nodes: {podTemplate: {annotations: {a/b/c: d}}}"),
            "spec.nodes.podTemplate.annotations must have keys such as team",
        ),
        (
            "too many pod labels",
            organism(&format!(
                "nodes: {{podTemplate: {{labels: {{{}}}}}}}",
                (0..33).map(|it| format!("a{it}: b,")).collect::<String>()
            )),
            "spec.nodes.podTemplate.labels: Too many",
        ),
        (
            "a field of a pod that is not passed on",
            organism("nodes: {podTemplate: {hostNetwork: true}}"),
            r#"unknown field "spec.nodes.podTemplate.hostNetwork""#,
        ),
        (
            "a pull secret that is no name",
            organism("nodes: {podTemplate: {imagePullSecrets: [{name: My_Secret}]}}"),
            "spec.nodes.podTemplate.imagePullSecrets: name must be the name of a Secret",
        ),
        (
            "a pull secret twice",
            organism("nodes: {podTemplate: {imagePullSecrets: [{name: a}, {name: a}]}}"),
            "spec.nodes.podTemplate.imagePullSecrets[1]: Duplicate value",
        ),
        (
            "a node selector that no node can have",
            organism("nodes: {nodeSelector: {disk: 's s d'}}"),
            "spec.nodes.nodeSelector must have values of at most 63",
        ),
        (
            "a Service annotation that is no key",
            organism("metrics: {service: {annotations: {'a b': c}}}"),
            "spec.metrics.service.annotations must have keys such as team",
        ),
        (
            "tolerance negative",
            organism("autoscaling: {tolerance: -0.1}"),
            "spec.autoscaling.tolerance must be 0 to 1 (a fraction of the target); write a number in that range",
        ),
        (
            "tolerance in per cent",
            organism("autoscaling: {tolerance: 10}"),
            "spec.autoscaling.tolerance must be 0 to 1",
        ),
        (
            "tolerance as text",
            organism("autoscaling: {tolerance: 100m}"),
            "spec.autoscaling.tolerance in body must be of type number",
        ),
        (
            "min above max",
            organism("autoscaling: {minReplicas: 11}"),
            "spec.autoscaling.minReplicas must not exceed maxReplicas; lower it or raise maxReplicas",
        ),
        (
            "min 0",
            organism("autoscaling: {minReplicas: 0}"),
            "spec.autoscaling.minReplicas must be 1 to 1000",
        ),
        (
            "max too large",
            organism("autoscaling: {maxReplicas: 1001}"),
            "spec.autoscaling.maxReplicas must be 1 to 1000",
        ),
        (
            "a target of nothing",
            organism("autoscaling: {targetCPUUtilization: 0}"),
            "spec.autoscaling.targetCPUUtilization must be 1 to 1000; write",
        ),
        ("port 0", organism("mesh: {port: 0}"), "spec.mesh.port must be 1 to 65535 and not 8001"),
        ("port too large", organism("metrics: {port: 65536}"), "spec.metrics.port must be 1 to 65535"),
        (
            "the port of injections",
            organism("metrics: {port: 8001}"),
            "spec.metrics.port must be 1 to 65535 and not 8001, which is reserved for injections; choose another port",
        ),
        (
            "one port for both",
            organism("mesh: {port: 8000}"),
            "spec.mesh.port and spec.metrics.port must differ; change one of them",
        ),
        (
            "another type of Service",
            organism("metrics: {service: {type: ExternalName}}"),
            r#"supported values: "ClusterIP", "NodePort", "LoadBalancer""#,
        ),
        (
            "no range",
            organism("metrics: {service: {loadBalancerSourceRanges: [10.0.0.1]}}"),
            "spec.metrics.service.loadBalancerSourceRanges must be in CIDR notation; write ranges such as 10.0.0.0/8",
        ),
        (
            "no range of IPv6",
            organism("metrics: {service: {loadBalancerSourceRanges: ['fd00::/129']}}"),
            "write ranges such as 10.0.0.0/8 or fd00::/8",
        ),
        (
            "a range of IPv4 in IPv6",
            organism("metrics: {service: {loadBalancerSourceRanges: ['::ffff:10.0.0.0/104']}}"),
            "spec.metrics.service.loadBalancerSourceRanges must be in CIDR notation",
        ),
        (
            "ranges without a load balancer",
            organism("metrics: {service: {type: ClusterIP, loadBalancerSourceRanges: [10.0.0.0/8]}}"),
            "spec.metrics.service.loadBalancerSourceRanges is allowed only with type LoadBalancer",
        ),
        (
            "interval negative",
            organism("ledger: {commitInterval: -1s}"),
            "spec.ledger.commitInterval must be a duration of 1ms to 24h; write it with its unit",
        ),
        (
            "interval in words",
            organism("ledger: {commitInterval: fast}"),
            "spec.ledger.commitInterval must be",
        ),
        ("interval ISO", organism("ledger: {commitInterval: PT1S}"), "spec.ledger.commitInterval must be"),
        (
            "retain too small",
            organism("ledger: {retain: {bytes: 255Ki}}"),
            "spec.ledger.retain.bytes must be 256Ki to 16Mi; write a whole number with Ki or Mi, such as 4Mi",
        ),
        ("retain too large", organism("ledger: {retain: {bytes: '16777217'}}"), "256Ki to 16Mi"),
        (
            "retain a fraction",
            organism("ledger: {retain: {bytes: 1.5Mi}}"),
            "write a whole number with Ki or Mi",
        ),
        ("retain 4MB", organism("ledger: {retain: {bytes: 4MB}}"), "write a whole number with Ki or Mi"),
        (
            "retain negative",
            organism("ledger: {retain: {bytes: '-4Mi'}}"),
            "write a whole number with Ki or Mi",
        ),
        // Genome.
        (
            "weights do not sum to 1",
            genome("weights: {regen: 0.5}"),
            "spec.weights must sum to 1 (±0.000001): regen + balance + entropy + optimize; adjust one of them",
        ),
        ("weights a little off", genome("weights: {optimize: 0.350002}"), "spec.weights must sum to 1"),
        (
            "weight negative",
            genome("weights: {regen: -0.25, balance: 0.75}"),
            "spec.weights.regen must be 0 to 1",
        ),
        ("weight above 1", genome("weights: {entropy: 1.1}"), "spec.weights.entropy must be 0 to 1; write"),
        (
            "kp negative",
            genome("pid: {kp: -0.1}"),
            "spec.pid.kp must be 0 to 100; write a number in that range",
        ),
        ("ki too large", genome("pid: {ki: 100.5}"), "spec.pid.ki must be 0 to 100"),
        ("kd too large", genome("pid: {kd: 1e9}"), "spec.pid.kd must be 0 to 100"),
        (
            "threshold too long",
            genome("pid: {threshold: 61}"),
            "spec.pid.threshold must be 0 to 60 (seconds of T_Λ)",
        ),
        (
            "absurd anoms",
            genome("risk: {anoms: 1000001}"),
            "spec.risk.anoms must be 0 to 1000000; write a whole",
        ),
        ("more anoms than an int64", genome("risk: {anoms: 9223372036854775808}"), "spec.risk.anoms"),
        ("anoms negative", genome("risk: {anoms: -1}"), "spec.risk.anoms must be 0 to 1000000"),
        (
            "window below 1 ms",
            genome("risk: {window: 1us}"),
            "spec.risk.window must be 0s (no expiry) or a duration of 1ms to 24h; write it with its unit",
        ),
        ("window a bare 0", genome("risk: {window: '0'}"), "spec.risk.window must be 0s (no expiry)"),
        (
            "window too long for its field",
            genome(&format!("risk: {{window: {}s}}", "1".repeat(40))),
            "Too long",
        ),
        ("mlWeight", genome("ml: {mlWeight: -100.1}"), "spec.ml.mlWeight must be -100 to 100; write"),
        ("bias", genome("ml: {bias: 101}"), "spec.ml.bias must be -100 to 100; write"),
        (
            "nothing may be injected",
            genome("ml: {injectable: {min: 2}}"),
            "spec.ml.injectable.min must not exceed max; lower it or raise max",
        ),
        (
            "injectable too large",
            genome("ml: {injectable: {max: 101}}"),
            "spec.ml.injectable.max must be -100 to 100; write",
        ),
        ("quarantine", genome("thresholds: {quarantine: 1.01}"), "spec.thresholds.quarantine must be 0 to 1"),
        ("alert", genome("thresholds: {alert: -1}"), "spec.thresholds.alert must be 0 to 1; write"),
        (
            "stability",
            genome("thresholds: {stability: 2}"),
            "spec.thresholds.stability must be 0 to 1; write",
        ),
        ("repair", genome("thresholds: {repair: -0.1}"), "spec.thresholds.repair must be 0 to 1; write"),
        ("gain", genome("thresholds: {gain: 10}"), "spec.thresholds.gain must be 0 to 1; write"),
    ]
}

#[tokio::test]
async fn invalid_manifests_are_rejected_with_the_remedy() {
    in_namespace(async |client, namespace| {
        let mut failures = vec![];
        for (what, manifest, fragment) in rejected() {
            match create(&client, namespace, &manifest, "&dryRun=All").await {
                Ok(_) => failures.push(format!("{what}: accepted")),
                Err(message) if !message.contains(fragment) => {
                    failures.push(format!("{what}: wanted {fragment:?}, got {message:?}"));
                }
                // Names have no meaning without a cluster, k = 1 is valid with a fixed number of nodes, and an empty object
                // of an unknown name is passed over.
                Err(message)
                    if message.contains("metadata.name")
                        || ["k 1", "a field not there yet"].contains(&what) => {}
                Err(message) => match offline(&manifest) {
                    Ok(_) => failures.push(format!("{what}: accepted without an API server")),
                    // A rule, and not a value that cannot be parsed: it says the same on both sides.
                    Err(said)
                        if is_rule(&said)
                            && !message.contains(&said)
                            && !message.contains("must be of type") =>
                    {
                        failures
                            .push(format!("{what}: without an API server {said:?}, with one {message:?}"));
                    }
                    Err(_) => {}
                },
            }
        }
        assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    })
    .await;
}

/// Whether the message is that of a rule of the schema, and not of a size, which the API server words itself. It does not
/// evaluate the rules of values of another type.
fn is_rule(said: &str) -> bool {
    let sizes = ["must have at most", "must not be empty", "must not have two items"];
    said.starts_with("spec.")
        && !said.starts_with("spec.pulse.k ")
        && !sizes.iter().any(|it| said.contains(it))
}

/// The spec of a manifest that is read and checked without an API server, as by `venom run -f`.
fn offline(manifest: &str) -> Result<Value, String> {
    let written =
        document(serde_yaml::Deserializer::from_str(manifest)).map_err(|error| error.to_string())?;
    if written["kind"] == "Organism" {
        let organism = read::<Organism>(written).map_err(|error| error.to_string())?;
        validate::organism(&organism.spec)?;
        Ok(serde_json::to_value(organism.spec).unwrap())
    } else {
        let genome = read::<Genome>(written).map_err(|error| error.to_string())?;
        validate::genome(&genome.spec)?;
        Ok(serde_json::to_value(genome.spec).unwrap())
    }
}

/// The limits of every bound, and every notation of a value.
#[tokio::test]
async fn valid_manifests_are_accepted() {
    let accepted = [
        named("Organism", &"a".repeat(40)),
        named("Genome", "a"),
        named("Genome", "venom-1"),
        organism("null"),
        organism("{pulse: null, beats: null, genomeRef: null}"),
        organism("genomeRef: {name: primordial}"),
        organism("beats: 1"),
        organism("beats: 9007199254740993"),
        organism("pulse: {k: 2, t1: 0.000000001, u: 1.0000000000000002, minPeriod: 1ms}"),
        organism("pulse: {k: 1000, t1: 60, u: 1000000, minPeriod: 24h}"),
        organism("pulse: {minPeriod: 1h30m0.5s}"),
        organism("pulse: {minPeriod: 23h59m59999ms}"),
        organism("pulse: {minPeriod: 1500.5µs}"),
        organism("nodes: {replicas: 0}"),
        organism("nodes: {replicas: 1000}"),
        organism("nodes: {resources: {requests: {cpu: 2, memory: 1Gi}, limits: {cpu: '2.5'}}}"),
        organism("{nodes: {resources: {requests: {}, limits: {}}}, autoscaling: {enabled: false}}"),
        organism("nodes: {resources: {requests: {}, limits: {cpu: 1}}, nodeSelector: {}, tolerations: []}"),
        organism("nodes: {nodeSelector: {disk: ssd}, priorityClassName: system-cluster-critical}"),
        organism("nodes: {tolerations: [{operator: Exists}, {key: a, value: b, effect: NoSchedule}]}"),
        organism(
            "nodes: {tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]}",
        ),
        organism(
            "nodes: {topologySpreadConstraints: [{maxSkew: 1, topologyKey: a, whenUnsatisfiable: ScheduleAnyway}]}",
        ),
        organism("nodes: {podTemplate: {labels: {}, annotations: {}, imagePullSecrets: []}}"),
        organism(
            "nodes: {podTemplate: {labels: {team: '', example.com/Team_1.x: a-b_c.D, app.kubernetes.io/name: x}}}",
        ),
        organism(&format!("nodes: {{podTemplate: {{labels: {{a.b/{0}: {0}}}}}}}", "a".repeat(63))),
        organism("nodes: {podTemplate: {annotations: {Example.com/Note: any text - ü, '0': ''}}}"),
        organism("nodes: {podTemplate: {imagePullSecrets: [{name: registry.example.com}, {name: b}]}}"),
        organism("autoscaling: {tolerance: 0}"),
        organism("autoscaling: {tolerance: 1}"),
        organism("autoscaling: {minReplicas: 1000, maxReplicas: 1000, targetCPUUtilization: 500}"),
        organism("{mesh: {port: 1}, metrics: {port: 65535, service: {type: NodePort, annotations: {a: b}}}}"),
        organism("metrics: {service: {loadBalancerSourceRanges: [10.0.0.0/8, 'fd00::/8']}}"),
        organism("ledger: {commitInterval: 0.001s, retain: {bytes: 256Ki}, onDelete: Retain}"),
        organism("ledger: {commitInterval: 24h0m0s, retain: {bytes: 16Mi}}"),
        organism("ledger: {retain: {bytes: '16777216'}}"),
        organism("ledger: {retain: {bytes: 1M}}"),
        genome("weights: {regen: 0, balance: 0, entropy: 0, optimize: 1}"),
        genome("weights: {regen: 0.25, balance: 0.25, entropy: 0.15, optimize: 0.350001}"),
        genome("weights: {regen: 0.1, balance: 0.2, entropy: 0.3, optimize: 0.399999}"),
        genome("pid: {kp: 0, ki: 0, kd: 0, threshold: 0}"),
        genome("pid: {kp: 100, ki: 100, kd: 100, threshold: 60}"),
        genome("risk: {anoms: 0, window: 0s}"),
        genome("risk: {anoms: 1000000, window: 1ms}"),
        genome("ml: {mlWeight: -100, bias: 100}"),
        genome("ml: {mlWeight: 100, bias: -100}"),
        genome("ml: {injectable: {min: -100, max: 100}}"),
        genome("ml: {injectable: {min: 1}}"),
        genome("thresholds: {quarantine: 0, alert: 0, stability: 0, repair: 0, gain: 0}"),
        genome("thresholds: {quarantine: 1, alert: 1, stability: 1, repair: 1, gain: 1}"),
        genome("evolution: Frozen"),
    ];
    in_namespace(async |client, namespace| {
        for manifest in accepted {
            let stored = create(&client, namespace, &manifest, "&dryRun=All").await;
            let stored = stored.unwrap_or_else(|message| panic!("{manifest}\n{message}"));
            // Reading the manifest without an API server yields the same spec.
            let spec = if stored["kind"] == "Organism" {
                serde_json::to_value(serde_json::from_value::<Organism>(stored).unwrap().spec).unwrap()
            } else {
                serde_json::to_value(serde_json::from_value::<Genome>(stored).unwrap().spec).unwrap()
            };
            assert_eq!(offline(&manifest), Ok(spec), "{manifest}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_smallest_objects_get_all_defaults() {
    in_namespace(async |client, namespace| {
        for kind in ["Organism", "Genome"] {
            let manifest = format!("{{apiVersion: {API_VERSION}, kind: {kind}, metadata: {{name: venom}}}}");
            create(&client, namespace, &manifest, "").await.unwrap();
        }
        let organism = Api::<Organism>::namespaced(client.clone(), namespace).get("venom").await.unwrap();
        assert_eq!(organism.spec, OrganismSpec::default());
        assert_eq!(organism.status, None);
        assert_eq!(organism.genome_name(), "venom");
        let genome = Api::<Genome>::namespaced(client, namespace).get("venom").await.unwrap();
        assert_eq!(genome.spec, GenomeSpec::default());
    })
    .await;
}

/// A replay needs the exact numbers: the API server returns the same bits.
#[tokio::test]
async fn numbers_round_trip_bit_for_bit() {
    in_namespace(async |client, namespace| {
        let organisms = Api::<Organism>::namespaced(client.clone(), namespace);
        let numbers = [
            ("54.598150033144236", 54.598150033144236),
            ("5.4598150033144236e1", 54.598150033144236),
            ("1.0000000000000002", 1.0000000000000002),
            ("2.718281828459045", std::f64::consts::E),
            ("999999.9999999999", 999_999.999_999_999_9),
            ("2", 2.0),
        ];
        for (number, (text, value)) in numbers.into_iter().enumerate() {
            let manifest = format!(
                "{{apiVersion: {API_VERSION}, kind: Organism, metadata: {{name: o{number}}}, spec: {{pulse: {{u: {text}}}}}}}"
            );
            create(&client, namespace, &manifest, "").await.unwrap();
            let u = organisms.get(&format!("o{number}")).await.unwrap().spec.pulse.u;
            assert_eq!(u.to_bits(), value.to_bits(), "{text} came back as {u:?}");
        }
    })
    .await;
}

fn organism(spec: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: Organism\nmetadata: {{name: venom}}\nspec:\n  {spec}\n")
}

fn genome(spec: &str) -> String {
    organism(spec).replace("kind: Organism", "kind: Genome")
}

fn named(kind: &str, name: &str) -> String {
    format!("apiVersion: {API_VERSION}\nkind: {kind}\nmetadata: {{name: {name}}}\n")
}

/// POSTs a manifest unchanged. The error is the API server's message.
async fn create(client: &Client, namespace: &str, manifest: &str, query: &str) -> Result<Value, String> {
    let url = if manifest.contains("kind: Organism") {
        Organism::url_path(&(), Some(namespace))
    } else {
        Genome::url_path(&(), Some(namespace))
    };
    let mut request = Request::new(url).create(&Default::default(), manifest.as_bytes().to_vec()).unwrap();
    // kube's parameters support strict field validation for patches only.
    *request.uri_mut() = format!("{}&fieldValidation=Strict{query}", request.uri()).parse().unwrap();
    request.headers_mut().insert("content-type", "application/yaml".parse().unwrap());
    match client.request(request).await {
        Ok(stored) => Ok(stored),
        Err(Error::Api(status)) => Err(status.message),
        Err(error) => panic!("{manifest}\n{error}"),
    }
}
