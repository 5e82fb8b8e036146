# Start with `make demo` and `make test`. `make help` lists all targets.

CLUSTER := e2e/cluster/cluster
TEST_CLUSTER := test
SCRIPTS := e2e/demo e2e/run e2e/image e2e/rootfs e2e/cluster/cluster e2e/cluster/smoke charts/manifest .ci/run .ci/deny

.PHONY: help demo test test-fast test-cluster test-faults faults e2e lint crds manifests bench cluster-down

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: ## run an organism on a real cluster on this machine, with an anomaly and the resulting decision
	e2e/demo

test: test-fast test-cluster test-faults ## run all tests, fast ones first

test-fast: ## run the tests that need no cluster
	cargo test --lib --bins --test vectors --test crds --test house --test rederivation --test reachability --test hostile --test fuzz --test cli --test mesh --test ownership

test-cluster: ## run the tests that need an API server: that of KUBECONFIG, or one started for them
	# Its queries are tried on a real server: built once, kept outside the repository.
	$(CLUSTER) build prometheus
	# The tests wait most of the time: more of them at once than there are processors.
	cargo test --test cluster -- --test-threads=4

test-faults: ## half a minute of `make faults`
	VENOM_FAULTS=30s cargo test --test faults -- --nocapture

faults: ## prove that no committed beat is lost: faults for VENOM_FAULTS (10m), by VENOM_SEED, on a cluster of their own
	cargo test --test faults -- --nocapture

e2e: ## run the end-to-end tests on this machine (as root), or with PROVIDER=kind on kind
	PROVIDER=$(PROVIDER) e2e/run

lint: ## check formatting, clippy, dependencies, shell scripts and the plain manifest
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy --test e2e --test faults -- -D warnings
	@if command -v shellcheck >/dev/null; then shellcheck -x -P SCRIPTDIR $(SCRIPTS); fi
	@charts/manifest check
	@.ci/deny

crds: ## generate crds/ and the chart's copy from src/api
	cargo run --quiet -- crds --dir crds
	cargo run --quiet -- crds --dir charts/venom/files/crds

manifests: crds ## generate charts/venom.yaml from the chart
	$(CLUSTER) build helm
	charts/manifest >charts/venom.yaml.new && mv charts/venom.yaml.new charts/venom.yaml

bench: ## run the benchmarks (release build)
	cargo bench --bench ledger
	cargo bench --bench operator
	cargo bench --bench replicas
	cargo bench --bench enforcement
	cargo bench --bench mesh

cluster-down: ## stop the cluster that the tests started
	$(CLUSTER) down --name $(TEST_CLUSTER)
