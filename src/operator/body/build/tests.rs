use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::api::labels::UID_LABEL;

/// Parses the arguments of `venom node` as the program does.
#[derive(clap::Parser)]
struct NodeCommand {
    #[command(flatten)]
    args: crate::cli::node::Args,
}

fn organism(spec: Value) -> api::Organism {
    serde_json::from_value(json!({
        "apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "spec": spec,
        "metadata": {"name": "venom", "namespace": "team-a", "uid": "1-2-3"},
    }))
    .unwrap()
}

fn installation() -> Installation {
    Installation {
        node_image: "venom:1".into(),
        namespace: "venom-system".into(),
        issuer_url: "https://venom.venom-system.svc:8443/v1/certificates".into(),
        issuer_port: 8443,
        issuer_address: None,
        ca_pem: "a certificate".into(),
    }
}

/// Builds the body and returns the object of this kind and name as JSON.
fn build(spec: Value, kind: Kind, name: &str) -> Value {
    let children = children(&organism(spec), &installation(), &Measures::default(), None).unwrap();
    let found = children.into_iter().find(|it| it.kind == kind && it.name == name).unwrap();
    serde_json::to_value(found.object.unwrap()).unwrap()
}

fn pod_spec(spec: Value) -> Value {
    build(spec, Kind::Deployment, "venom")["spec"]["template"]["spec"].take()
}

#[test]
fn every_object_is_owned_and_labelled() {
    let children = children(&organism(json!({})), &installation(), &Measures::default(), None).unwrap();
    let names: Vec<_> = children.iter().map(|it| (it.kind, it.name.as_str())).collect();
    let expected = [
        (Kind::ConfigMap, "venom-mesh-ca"),
        (Kind::ServiceAccount, "venom"),
        (Kind::Service, "venom-mesh"),
        (Kind::Service, "venom-metrics"),
        (Kind::NetworkPolicy, "venom-quarantine"),
        (Kind::NetworkPolicy, "venom-body"),
        (Kind::Deployment, "venom"),
        (Kind::PodDisruptionBudget, "venom"),
        (Kind::HorizontalPodAutoscaler, "venom"),
    ];
    assert_eq!(names, expected);
    for child in children {
        let object = child.object.unwrap();
        let types = object.types.clone().unwrap();
        let resource = child.kind.resource();
        assert_eq!((types.api_version, types.kind), (resource.api_version, resource.kind));
        assert_eq!(object.metadata.namespace.as_deref(), Some("team-a"));
        let owner = &object.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!(
            (owner.kind.as_str(), owner.uid.as_str(), owner.controller),
            ("Organism", "1-2-3", Some(true))
        );
        assert_eq!(owner.block_owner_deletion, None, "requires no right to organisms/finalizers");
        let labels = object.labels();
        assert_eq!(labels[ORGANISM_LABEL], "venom");
        for name in ["name", "instance", "component", "part-of", "managed-by"] {
            assert!(labels.contains_key(&format!("app.kubernetes.io/{name}")), "{name}");
        }
    }
}

#[test]
fn pods_run_with_least_privilege() {
    let pod = pod_spec(json!({}));
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["serviceAccountName"], "venom");
    let context = &pod["securityContext"];
    let expected = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    assert_eq!(*context, expected, "user and groups are those of the image or of the namespace");
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        })
    );
    let token = &pod["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"];
    assert_eq!(
        *token,
        json!({"audience": "genesis.venom.dev/node", "expirationSeconds": 3600, "path": "token"})
    );
    assert_eq!(pod["volumes"][1]["configMap"], json!({"name": "venom-mesh-ca", "optional": true}));
    let authority = build(json!({}), Kind::ConfigMap, "venom-mesh-ca");
    assert_eq!(authority["data"], json!({"ca.pem": "a certificate"}));
    assert!(authority["metadata"]["labels"].get(UID_LABEL).is_none(), "not an object of the ledger");
}

#[test]
fn node_container_has_arguments_probes_and_resources() {
    let spec = json!({"mesh": {"port": 9100}, "metrics": {"port": 8100}});
    let container = pod_spec(spec)["containers"][0].take();
    assert_eq!(
        container["args"],
        json!([
            "node",
            "--peers=venom-mesh.team-a.svc:9100",
            "--mesh-port=9100",
            "--http-port=8100",
            "--issuer=https://venom.venom-system.svc:8443/v1/certificates",
            "--issuer-token=/var/run/secrets/genesis.venom.dev/node/token",
            "--issuer-ca=/etc/venom/mesh-ca/ca.pem",
            "--injectable=-100..100",
            "--log-format=json",
        ])
    );
    let args: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
    let node = NodeCommand::try_parse_from(args).unwrap().args;
    assert_eq!((node.injectable.min, node.injectable.max), (-100.0, 100.0));
    assert_eq!(node.peers, ["venom-mesh.team-a.svc:9100"]);
    assert_eq!(container["image"], "venom:1");
    assert_eq!(container["readinessProbe"]["httpGet"], json!({"path": "/readyz", "port": "metrics"}));
    assert_eq!(container["livenessProbe"]["httpGet"], json!({"path": "/healthz", "port": "metrics"}));
    assert_eq!(
        container["resources"],
        json!({"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}})
    );
}

#[test]
fn pod_settings_of_the_spec_are_applied() {
    let spec = json!({"nodes": {
        "replicas": 7,
        "resources": {"requests": {"cpu": 2}, "limits": {}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}, {"key": "a", "value": "b"}],
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"},
        ],
        "priorityClassName": "high",
    }});
    assert_eq!(build(spec.clone(), Kind::Deployment, "venom")["spec"]["replicas"], 7);
    let pod = pod_spec(spec);
    assert_eq!(pod["containers"][0]["resources"], json!({"requests": {"cpu": "2"}}));
    assert_eq!(pod["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(
        pod["tolerations"],
        json!([
            {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30},
            {"key": "a", "operator": "Equal", "value": "b"},
        ])
    );
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"], json!({"matchLabels": {ORGANISM_LABEL: "venom"}}));
    assert_eq!(pod["priorityClassName"], "high");
}

#[test]
fn pod_template_is_added_and_own_labels_take_precedence() {
    let bare = build(json!({}), Kind::Deployment, "venom")["spec"]["template"].take();
    assert_eq!(bare["metadata"].as_object().unwrap().keys().collect::<Vec<_>>(), ["labels"]);
    assert_eq!(bare["spec"].get("imagePullSecrets"), None);
    let spec = json!({"nodes": {"podTemplate": {
        "labels": {"team": "a", "app.kubernetes.io/component": "operator", "app.kubernetes.io/version": "2"},
        "annotations": {"sidecar.istio.io/inject": "true"},
        "imagePullSecrets": [{"name": "registry"}],
    }}});
    let deployment = build(spec, Kind::Deployment, "venom");
    let template = &deployment["spec"]["template"];
    let mut labels = bare["metadata"]["labels"].clone();
    labels["team"] = "a".into();
    labels["app.kubernetes.io/version"] = "2".into();
    assert_eq!(
        template["metadata"],
        json!({
            "labels": labels, "annotations": {"sidecar.istio.io/inject": "true"},
        })
    );
    assert_eq!(template["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    assert_eq!(deployment["metadata"]["labels"], bare["metadata"]["labels"], "only the pods get them");
    assert_eq!(deployment["spec"]["selector"], json!({"matchLabels": {ORGANISM_LABEL: "venom"}}));
}

#[test]
fn autoscaler_targets_the_organism_with_the_default_behaviour() {
    let spec = build(json!({}), Kind::HorizontalPodAutoscaler, "venom")["spec"].take();
    assert_eq!(
        spec,
        json!({
            "scaleTargetRef": {"apiVersion": "genesis.venom.dev/v1alpha1", "kind": "Organism", "name": "venom"},
            "minReplicas": 1,
            "maxReplicas": 10,
            "metrics": [{
                "type": "ContainerResource",
                "containerResource": {
                    "name": "cpu",
                    "container": pod_spec(json!({}))["containers"][0]["name"],
                    "target": {"type": "Utilization", "averageUtilization": 50},
                },
            }],
            "behavior": {
                "scaleUp": {
                    "policies": [
                        {"type": "Percent", "value": 100, "periodSeconds": 30},
                        {"type": "Pods", "value": 2, "periodSeconds": 30},
                    ],
                    "selectPolicy": "Max",
                    "stabilizationWindowSeconds": 0,
                },
                "scaleDown": {
                    "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}],
                    "selectPolicy": "Max",
                    "stabilizationWindowSeconds": 300,
                },
            },
        })
    );
    let tolerant = build(json!({"autoscaling": {"tolerance": 0.05}}), Kind::HorizontalPodAutoscaler, "venom")
        ["spec"]
        .take();
    for direction in ["scaleUp", "scaleDown"] {
        assert_eq!(tolerant["behavior"][direction]["tolerance"], "0.05", "{direction}");
    }
    let children = children(
        &organism(json!({"autoscaling": {"enabled": false}})),
        &installation(),
        &Measures::default(),
        None,
    )
    .unwrap();
    let autoscaler = children.iter().find(|it| it.kind == Kind::HorizontalPodAutoscaler).unwrap();
    assert_eq!(autoscaler.object, None, "disabled");
}

#[test]
fn services_and_network_policy_use_the_ports_of_the_spec() {
    let mesh = build(json!({}), Kind::Service, "venom-mesh")["spec"].take();
    assert_eq!((&mesh["clusterIP"], &mesh["publishNotReadyAddresses"]), (&json!("None"), &json!(true)));
    assert_eq!(mesh["ports"][0]["port"], 9000);
    let spec = json!({"metrics": {"port": 8100, "service": {
        "type": "LoadBalancer", "annotations": {"a": "b"}, "loadBalancerSourceRanges": ["10.0.0.0/8"],
    }}});
    let metrics = build(spec.clone(), Kind::Service, "venom-metrics");
    assert_eq!(metrics["metadata"]["annotations"], json!({"a": "b"}));
    assert_eq!(metrics["spec"]["type"], "LoadBalancer");
    assert_eq!(metrics["spec"]["loadBalancerSourceRanges"], json!(["10.0.0.0/8"]));
    let policy = build(spec, Kind::NetworkPolicy, "venom-body")["spec"].take();
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let selected = json!({"matchLabels": {ORGANISM_LABEL: "venom"}});
    assert_eq!(policy["podSelector"], selected);
    let (peers, operator) = (json!({"podSelector": selected}), operator_pods());
    let mesh = json!([{"port": 9000, "protocol": "TCP"}]);
    assert_eq!(
        policy["ingress"],
        json!([{"from": [peers, operator], "ports": mesh}, {"ports": [{"port": 8100, "protocol": "TCP"}]}])
    );
    let dns = json!([
        {"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"},
        {"port": 5353, "protocol": "UDP"}, {"port": 5353, "protocol": "TCP"},
    ]);
    assert_eq!(
        policy["egress"],
        json!([
            {"ports": dns},
            {"to": [peers], "ports": mesh},
            {"to": [operator], "ports": [{"port": 8443, "protocol": "TCP"}]},
        ])
    );
}

fn operator_pods() -> Value {
    json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "venom-system"}},
        "podSelector": {"matchLabels": {
            "app.kubernetes.io/name": "venom", "app.kubernetes.io/component": "operator",
        }},
    })
}

#[test]
fn an_operator_at_an_address_is_allowed_as_well() {
    for (address, cidr) in [("192.0.2.7", "192.0.2.7/32"), ("fd00::7", "fd00::7/128")] {
        let issuer_address = Some(address.parse().unwrap());
        let policy = access::network_policy(
            &organism(json!({})),
            &Installation { issuer_address, ..installation() },
            false,
        );
        let spec = serde_json::to_value(policy.spec.unwrap()).unwrap();
        let operator = [operator_pods(), json!({"ipBlock": {"cidr": cidr}})];
        assert_eq!(spec["ingress"][0]["from"].as_array().unwrap()[1..], operator);
        assert_eq!(*spec["egress"][2]["to"].as_array().unwrap(), operator);
    }
}

#[test]
fn drains_evict_unhealthy_pods() {
    let budget = build(json!({}), Kind::PodDisruptionBudget, "venom")["spec"].take();
    assert_eq!(budget["maxUnavailable"], 1);
    assert_eq!(budget["unhealthyPodEvictionPolicy"], "AlwaysAllow");
}

fn build_with(measures: Measures, kind: Kind, name: &str) -> Value {
    let children = children(&organism(json!({})), &installation(), &measures, None).unwrap();
    let found = children.into_iter().find(|it| it.kind == kind && it.name == name).unwrap();
    serde_json::to_value(found.object.unwrap()).unwrap()
}

#[test]
fn isolated_pods_are_selected_by_the_quarantine_and_admit_only_peers_and_the_operator() {
    let free = |name| build_with(Measures::default(), Kind::NetworkPolicy, name);
    let isolated = Measures { isolated: true, ..Measures::default() };
    let isolated = |name| build_with(isolated, Kind::NetworkPolicy, name);
    let selector = json!({"matchLabels": {ORGANISM_LABEL: "venom"}});
    assert_eq!(isolated("venom-quarantine")["spec"]["podSelector"], selector);
    assert_eq!(isolated("venom-body")["spec"]["podSelector"], selector);
    // Policies add up: what one of the two allows is allowed.
    assert_eq!(isolated("venom-quarantine")["spec"], isolated("venom-body")["spec"]);
    let ingress = &isolated("venom-body")["spec"]["ingress"];
    assert_eq!(ingress.as_array().unwrap().len(), 1);
    assert_eq!(ingress[0]["ports"], json!([{"port": 9000, "protocol": "TCP"}]));
    assert_eq!(free("venom-body")["spec"]["ingress"][1]["ports"][0]["port"], 8000);
    let of_none = &free("venom-quarantine")["spec"]["podSelector"]["matchLabels"];
    let pods = pod_labels(&organism(json!({})));
    assert!(of_none.as_object().unwrap().iter().any(|(name, _)| !pods.contains_key(name)), "{of_none}");
}

#[test]
fn measures_limit_the_autoscaler_and_change_nothing_else_of_it() {
    use crate::operator::measures::ScalingLimit;
    let of = |scaling, utilization| {
        build_with(Measures { scaling, utilization, isolated: false }, Kind::HorizontalPodAutoscaler, "venom")
    };
    let free = of(ScalingLimit::Free, None);
    for (limit, up, down) in
        [(ScalingLimit::NoScaleDown, "Max", "Disabled"), (ScalingLimit::Frozen, "Disabled", "Disabled")]
    {
        let mut limited = of(limit, None);
        let behavior = &mut limited["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["selectPolicy"].take(), up);
        assert_eq!(behavior["scaleDown"]["selectPolicy"].take(), down);
        behavior["scaleUp"]["selectPolicy"] = "Max".into();
        behavior["scaleDown"]["selectPolicy"] = "Max".into();
        assert_eq!(limited, free);
    }
    let target = |it: &Value| {
        it["spec"]["metrics"][0]["containerResource"]["target"]["averageUtilization"].as_u64().unwrap()
    };
    assert_eq!((target(&free), target(&of(ScalingLimit::Free, Some(55)))), (50, 55));
}

fn adopted() -> Adopted {
    let selector = json!({
        "matchLabels": {"app": "shop"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["web", "api"]}],
    });
    Adopted {
        kind: api::WorkloadKind::StatefulSet,
        name: "shop".into(),
        uid: "4".into(),
        selector: serde_json::from_value(selector).unwrap(),
        labels: Labels::new(),
        ready: 1,
        replicas: 1,
        workload: crate::operator::publisher::body::Workload::default(),
    }
}

/// Nothing of the operator's stands beside an adopted workload, except what a decision is acted on with, and what the spec
/// asks for.
#[test]
fn an_adopted_workload_gets_no_more_than_a_policy_and_an_autoscaler() {
    let reference = json!({"kind": "StatefulSet", "name": "shop"});
    let built = |more: Value, adopted: Option<&Adopted>| {
        let mut spec = more;
        spec["workloadRef"] = reference.clone();
        let children = children(&organism(spec), &installation(), &Measures::default(), adopted).unwrap();
        assert_eq!(children.len(), 9, "what it had before goes");
        let left = children.into_iter().filter(|it| it.object.is_some());
        left.map(|it| format!("{} {}", it.kind.resource().kind, it.name)).collect::<Vec<_>>()
    };
    let none = Vec::<String>::new();
    let enforce = || json!({"response": {"mode": "Enforce"}});
    let scaled = || json!({"autoscaling": {"enabled": true}});
    assert_eq!(built(json!({}), Some(&adopted())), none);
    assert_eq!(built(enforce(), Some(&adopted())), ["NetworkPolicy venom-quarantine"]);
    assert_eq!(built(scaled(), Some(&adopted())), ["HorizontalPodAutoscaler venom"]);
    for spec in [json!({}), enforce(), scaled()] {
        assert_eq!(built(spec, None), none, "it is not the body");
    }
}

#[test]
fn the_policy_of_an_adopted_workload_selects_its_pods_and_leaves_them_dns() {
    let policy = |isolated| {
        let policy = access::adopted_quarantine_policy(&organism(json!({})), &adopted(), isolated);
        serde_json::to_value(policy).unwrap()["spec"].take()
    };
    let (isolated, free) = (policy(true), policy(false));
    assert_eq!(isolated["podSelector"], serde_json::to_value(adopted().selector).unwrap());
    assert_eq!(free["podSelector"]["matchLabels"].as_object().unwrap().len(), 2, "a label that no pod has");
    assert_eq!(isolated["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(isolated["ingress"], json!([]));
    let egress = isolated["egress"].as_array().unwrap();
    assert_eq!(egress.len(), 1);
    let ports: Vec<_> = egress[0]["ports"].as_array().unwrap().iter().map(|it| it["port"].clone()).collect();
    assert_eq!(ports, [53, 53, 5353, 5353]);
}
