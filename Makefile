# The two commands of a fresh machine are `make demo` and `make test`. `make help` lists the rest.

CLUSTER := e2e/cluster/cluster
TEST_CLUSTER := test
SCRIPTS := e2e/demo e2e/run e2e/image e2e/rootfs e2e/cluster/cluster e2e/cluster/smoke charts/manifest .ci/run

.PHONY: help demo test test-fast test-cluster e2e lint crds manifests bench cluster-down

help: ## what there is to make
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: ## a real cluster on this machine, an organism beating in it, an anomaly and what follows
	e2e/demo

test: test-fast test-cluster ## every test, fast ones first

test-fast: ## tests that need no cluster
	cargo test --lib --bins --test vectors --test crds --test house --test rederivation --test reachability --test cli --test mesh

test-cluster: ## tests against a real API server: the one of KUBECONFIG, or one raised for them
	cargo test --test cluster

e2e: ## the operator as a pod, installed as users do; PROVIDER=kind takes kind instead of this machine (root)
	PROVIDER=$(PROVIDER) e2e/run

lint: ## formatting, clippy, shell scripts
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test e2e -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x -P SCRIPTDIR $(SCRIPTS); fi
	@charts/manifest check

crds: ## crds/ and the chart's copy of it made anew from src/api
	cargo run --quiet -- crds --dir crds
	cargo run --quiet -- crds --dir charts/venom/files/crds

manifests: crds ## charts/venom.yaml made anew from the chart
	$(CLUSTER) build helm
	charts/manifest >charts/venom.yaml.new && mv charts/venom.yaml.new charts/venom.yaml

bench: ## ratios measured side by side (release build)
	cargo bench --bench ledger
	cargo bench --bench operator
	cargo bench --bench mesh

cluster-down: ## ends the cluster that the tests raised
	$(CLUSTER) down --name $(TEST_CLUSTER)
