# shellcheck shell=bash
# The programs of the cluster: where they are and how they are built.
# Sourced by ../cluster, which sets $here, $cache and $scratch.

# level, program, family (a folder of programs/), package. The packages are
# the `tool` lines of the family's go.mod, whose versions count.
readonly programs_table='
control-plane etcd                    etcd           go.etcd.io/etcd/server/v3
control-plane kube-apiserver          kubernetes     k8s.io/kubernetes/cmd/kube-apiserver
control-plane kube-controller-manager kubernetes     k8s.io/kubernetes/cmd/kube-controller-manager
control-plane kubectl                 kubernetes     k8s.io/kubernetes/cmd/kubectl
node          kube-scheduler          kubernetes     k8s.io/kubernetes/cmd/kube-scheduler
node          kubelet                 kubernetes     k8s.io/kubernetes/cmd/kubelet
node          kube-proxy              kubernetes     k8s.io/kubernetes/cmd/kube-proxy
node          containerd              containerd     github.com/containerd/containerd/v2/cmd/containerd
node          containerd-shim-runc-v2 containerd     github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
node          ctr                     containerd     github.com/containerd/containerd/v2/cmd/ctr
node          runc                    runc           github.com/opencontainers/runc
node          bridge                  cni            github.com/containernetworking/plugins/plugins/main/bridge
node          loopback                cni            github.com/containernetworking/plugins/plugins/main/loopback
node          host-local              cni            github.com/containernetworking/plugins/plugins/ipam/host-local
node          portmap                 cni            github.com/containernetworking/plugins/plugins/meta/portmap
node          coredns                 coredns        github.com/coredns/coredns
node          metrics-server          metrics-server sigs.k8s.io/metrics-server/cmd/metrics-server
node          kube-router             kube-router    github.com/cloudnativelabs/kube-router/v2/cmd/kube-router
on-demand     helm                    helm           helm.sh/helm/v4/cmd/helm
on-demand     prometheus              prometheus     github.com/prometheus/prometheus/cmd/prometheus
'

# programs_of LEVEL: prints their names on one line.
programs_of() {
    awk -v level="$1" '$1 == "control-plane" || $1 == level { printf "%s ", $2 }' <<<"$programs_table"
}

# build_programs PROGRAM...: builds the missing ones.
build_programs() {
    local program missing=() n=0
    for program; do
        family_and_package "$program" >/dev/null
        find_program "$program" >/dev/null || missing+=("$program")
    done
    for program in ${missing[@]+"${missing[@]}"}; do
        n=$((n + 1))
        build_program "$program" "$n of ${#missing[@]}"
    done
}

# find_program PROGRAM: prints its path; fails if it is not built.
find_program() {
    local path
    for path in ${KUBEBUILDER_ASSETS:+"$KUBEBUILDER_ASSETS/$1"} "$(program_folder "$1")/$1"; do
        if [[ -x $path ]]; then
            echo "$path"
            return
        fi
    done
    return 1
}

# program_folder PROGRAM: prints the folder of the cache that holds it.
program_folder() {
    local family package
    read -r family package <<<"$(family_and_package "$1")"
    echo "$cache/programs/$family-$(package_version "$family" "$package")"
}

family_and_package() {
    awk -v program="$1" '$2 == program { print $3, $4; found = 1 } END { exit !found }' \
        <<<"$programs_table" || fail "no such program: $1"
}

# package_version FAMILY PACKAGE: prints the version that go.mod pins.
package_version() {
    awk -v package="$2" '$2 ~ /^v[0-9]/ && index(package "/", $1 "/") == 1 { print $2; exit }' \
        "$here/programs/$1/go.mod"
}

# build_program PROGRAM COUNT
build_program() {
    local program=$1 label="$1 ($2)" family package folder temporary lock
    read -r family package <<<"$(family_and_package "$program")"
    folder=$(program_folder "$program")
    command -v go >/dev/null || fail "go is missing: it builds $program (or set KUBEBUILDER_ASSETS)"
    mkdir -p "$folder"

    # Locked by program, not by family: the control plane's programs must
    # not wait for a build of the node's.
    exec {lock}>"$folder/.$program.lock"
    if ! flock -n "$lock"; then
        say "$label: waiting for another build of it"
        flock "$lock"
    fi
    if [[ ! -x $folder/$program ]]; then
        rm -rf "$folder/.$program".?????? # leftovers of a killed build
        temporary=$(mktemp -d "$folder/.$program.XXXXXX")
        scratch+=("$temporary")
        with_progress "building $label" "$temporary/log" \
            go_build "$family" "$package" "$temporary/$program" ||
            give_up "$temporary/log" "building $program failed"
        mv "$temporary/$program" "$folder/$program"
        rm -rf "$temporary"
    fi
    exec {lock}>&-
}

# go_build FAMILY PACKAGE OUTPUT
go_build() {
    local family=$1 package=$2 output=$3 version flags='-s -w' minor
    local tags=() cgo=0
    version=$(package_version "$family" "$package")
    case $family in
    kubernetes)
        # Without these the API server reports version v0.0.0.
        minor=${version#v1.}
        flags+=" -X k8s.io/component-base/version.gitVersion=$version"
        flags+=" -X k8s.io/component-base/version.gitMajor=1"
        flags+=" -X k8s.io/component-base/version.gitMinor=${minor%%.*}"
        ;;
    helm)
        flags+=" -X helm.sh/helm/v4/internal/version.version=$version"
        ;;
    runc)
        cgo=1 tags=(-tags seccomp)
        ;;
    prometheus)
        flags+=" -X github.com/prometheus/common/version.Version=${version/v0.3/3.}"
        # Targets come from its configuration: service discoveries are most of its code.
        tags=(-tags remove_all_sd)
        ;;
    esac
    cd "$here/programs/$family" || exit
    CGO_ENABLED=$cgo GOWORK=off GOFLAGS=-mod=readonly exec nice \
        go build -trimpath -buildvcs=false ${tags[@]+"${tags[@]}"} -ldflags "$flags" -o "$output" "$package"
}

# with_progress LABEL LOG COMMAND...: prints every 20 s that it still runs.
with_progress() {
    local label=$1 log=$2 began=$SECONDS next=20 status=0 pid
    shift 2
    say "$label"
    "$@" >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.5
        if ((SECONDS - began >= next)); then
            say "$label: $next s so far"
            next=$((next + 20))
        fi
    done
    wait "$pid" || status=$?
    ((status)) || say "$label: done in $((SECONDS - began)) s"
    return "$status"
}
