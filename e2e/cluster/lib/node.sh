# shellcheck shell=bash
# Level node: containerd, kubelet, kube-proxy, kube-router, DNS and metrics
# beside the control plane. Sourced by ../cluster.
#
# All of it runs in separate network and mount namespaces: the machine's
# network does not see it, and its mounts vanish with its programs.
#
# Programs outside reach the API server with the same kubeconfig:
# one socat listens on its port on the machine's loopback, another dials it
# inside, and a unix socket joins them, since a file is seen from both sides.
# No link, route or address joins the two networks, so that no pod reaches the
# machine, and ending two programs undoes it.

readonly node_address=10.90.0.1
readonly kernel_settings='vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000'

check_node() {
    [[ $(uname) == Linux && $EUID == 0 ]] || fail "level node needs Linux and root"
    [[ $cache/ != /run/* && $cache/ != /var/log/* ]] ||
        fail "level node has a /run and /var/log of its own: set VENOM_CACHE to another folder"
    # Without it the packets between two pods of a node pass no rule.
    [[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] ||
        fail "level node needs a kernel module: modprobe br_netfilter"
}

# make_namespaces: sets $enter, with which `start` runs programs inside.
make_namespaces() {
    local names=$state/node/namespaces program
    mkdir -p "$names" "$state/node"/{bin,cni,kubelet,log,net.d}
    for program in bridge host-local loopback portmap runc; do
        ln -s "$(find_program "$program")" "$state/node/bin/$program"
    done
    # A mount namespace is kept by a file on a private mount only.
    mount --bind "$names" "$names"
    mount --make-private "$names"
    touch "$names/mnt" "$names/net"
    unshare --mount="$names/mnt" --net="$names/net" true
    enter=(nsenter --mount="$names/mnt" --net="$names/net")
    # Paths of sockets are 107 bytes at most: inside, the state folder has a
    # short name. The folders under /var/lib are some programs' own choice;
    # they stay, empty, when the cluster ends: to remove one would unmount it
    # in the namespaces of other clusters. The default route is needed for
    # Services: an address without a route is refused before kube-proxy's rules
    # see it. The redirection to a closed port refuses connections to a Service
    # without endpoints: kube-router accepts them before kube-proxy's rule that
    # rejects them.
    "${enter[@]}" bash -euc '
        mount --make-rshared /
        mount -t tmpfs run /run
        mkdir -p /run/node /var/lib/cni /var/lib/kubelet
        mount --bind "$1" /run/node
        mount --bind "$1/log" /var/log
        mount --bind "$1/cni" /var/lib/cni
        mount --bind "$1/kubelet" /var/lib/kubelet
        echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
        ip link set lo up
        ip link add node0 type bridge
        ip address add "$2/32" dev node0
        ip link set node0 up
        ip route add default dev node0
        for protocol in tcp udp; do
            iptables --table nat --append PREROUTING --destination "$3" --protocol "$protocol" \
                --jump REDIRECT --to-ports 1
        done
    ' bash "$state/node" "$node_address" "$service_range"
    make_cgroups
}

# make_cgroups: a root for the kubelet, in each hierarchy there is.
make_cgroups() {
    local root=/sys/fs/cgroup controller folder
    if [[ -f $root/cgroup.controllers ]]; then
        mkdir -p "$root/$cgroup"
        for controller in $(<"$root/cgroup.controllers"); do
            # Some cannot be handed on; the kubelet says which it misses.
            echo "+$controller" 2>/dev/null >"$root/cgroup.subtree_control" || true
        done
    else
        for folder in "$root"/*/; do mkdir -p "$folder$cgroup"; done
    fi
}

# start_gate: forwards the API server's port on the machine's loopback.
start_gate() {
    start gate-inside socat -t 30 UNIX-LISTEN:node/api.sock,fork,mode=600 "TCP:127.0.0.1:$api_port"
    local enter=()
    start gate-outside socat -t 30 "TCP-LISTEN:$api_port,bind=127.0.0.1,reuseaddr,fork" UNIX-CONNECT:node/api.sock
}

start_containerd() {
    local image
    start containerd "$(find_program containerd)" --config "$here/node/containerd.toml"
    wait_until containerd containerd node_ctr version
    for image in pause busybox; do
        node_ctr images import "$cache/images/$image.tar" >"$state/logs/images.log" 2>&1 ||
            give_up "$state/logs/images.log" "the image $image cannot be loaded"
    done
    # The examples name the public image.
    node_ctr images tag localhost/busybox:1 docker.io/library/busybox:1.37 >>"$state/logs/images.log"
}

node_ctr() {
    "${enter[@]}" "$(find_program ctr)" --address /run/node/containerd.sock --namespace k8s.io "$@"
}

start_node() {
    cp "$here/node/pods.conflist" "$state/node/net.d/"
    cp "$state/pki/ca.crt" "$state/node/ca.crt"
    cp "$kubeconfig" "$state/node/admin.conf"
    make_certificate client kubelet "/O=system:nodes/CN=system:node:$name"
    make_certificate client kube-proxy /CN=system:kube-proxy
    make_certificate client kube-scheduler /CN=system:kube-scheduler
    write_kubeconfig kubelet "$state/node/kubelet.conf"
    write_kubeconfig kube-proxy "$state/node/kube-proxy.conf"
    write_kubeconfig kube-scheduler "$state/node/kube-scheduler.conf"

    start kube-scheduler "$(find_program kube-scheduler)" \
        --kubeconfig=/run/node/kube-scheduler.conf --leader-elect=false --bind-address=127.0.0.1
    start kube-proxy "$(find_program kube-proxy)" \
        --kubeconfig=/run/node/kube-proxy.conf --hostname-override="$name" \
        --proxy-mode=iptables --cluster-cidr=10.244.0.0/16 \
        --conntrack-max-per-core=0 --conntrack-min=0
    start_kubelet
    start_addons
}

# start_kubelet: it writes some settings of the whole machine's kernel, unless
# it finds them as it wants them. So it is shown files with those values, in a
# mount namespace that otherwise shares all mounts with the node's.
start_kubelet() {
    start kubelet unshare --mount --propagation unchanged bash -euc '
        mount --make-rprivate /proc
        mkdir -p /run/node/kernel
        while read -r setting value; do
            echo "$value" >"/run/node/kernel/${setting##*/}"
            mount --bind "/run/node/kernel/${setting##*/}" "/proc/sys/$setting"
        done <<<"$1"
        shift
        exec "$@"' bash "$kernel_settings" "$(find_program kubelet)" \
        --kubeconfig=/run/node/kubelet.conf --config="$here/node/kubelet.yaml" \
        --cgroup-root="/$cgroup" \
        --hostname-override="$name" --node-ip="$node_address"
}

# start_policies: kube-router's firewall alone, which enforces NetworkPolicies.
# Unlike its other parts it writes no kernel setting.
start_policies() {
    start kube-router env NODE_NAME="$name" "$(find_program kube-router)" \
        --kubeconfig=/run/node/admin.conf --service-cluster-ip-range="$service_range" \
        --run-firewall=true --run-router=false --run-service-proxy=false \
        --metrics-port=0 --health-port=0
}

# policies_enforced: the first synchronization adds this rule last.
policies_enforced() {
    "${enter[@]}" iptables --wait --list-rules KUBE-ROUTER-FORWARD | grep 'mark 0x20000/0x20000 -j ACCEPT'
}

start_addons() {
    start coredns "$(find_program coredns)" -conf "$here/node/Corefile"
    start metrics-server "$(find_program metrics-server)" \
        --kubeconfig=/run/node/admin.conf --authentication-kubeconfig=/run/node/admin.conf \
        --authorization-kubeconfig=/run/node/admin.conf \
        --secure-port=4443 --cert-dir=/run/node/metrics-pki \
        --kubelet-insecure-tls --kubelet-preferred-address-types=InternalIP \
        --metric-resolution=10s --kubelet-request-timeout=5s
    admin apply --filename="$here/node/addons.yaml" >"$state/logs/addons.log"
}

wait_for_node() {
    wait_until kubelet node admin wait --for=condition=Ready --timeout=2s "node/$name"
    start_policies # not before: it exits if the node does not exist
    wait_until coredns DNS "${enter[@]}" bash -c "</dev/tcp/$node_address/53"
    wait_until kube-router "network policies" policies_enforced
    wait_until metrics-server metrics \
        admin wait --for=condition=Available --timeout=2s apiservice/v1beta1.metrics.k8s.io
}

# print_node_env: the variables with which `ctr images import FILE` loads an image.
print_node_env() {
    printf 'export CONTAINERD_ADDRESS=%q CONTAINERD_NAMESPACE=k8s.io\n' "$state/node/containerd.sock"
}

# end_node: stops what end_programs left. Containers have separate namespaces
# but are in the cgroup; shims are not in the cgroup, but in the network.
end_node() {
    local names=$state/node/namespaces pids tries
    for ((tries = 0; tries < 50; tries++)); do
        pids=$(node_processes)
        [[ -n $pids ]] || break
        # shellcheck disable=SC2086 # a list of pids
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    [[ -z $pids ]] || fail "processes of '$name' do not end: $pids"
    while mountpoint -q "$names"; do umount --recursive "$names"; done
    # Below a remaining mount, rm would delete files outside of the cluster.
    ! grep -F " $state/" /proc/self/mountinfo >&2 || fail "these mounts of '$name' are left"
    for ((tries = 0; tries < 50; tries++)); do
        # A cgroup whose last process has just exited may be busy for a moment.
        if find /sys/fs/cgroup -depth -type d \( -name "$cgroup" -o -path "*/$cgroup/*" \) \
            -exec rmdir {} + 2>/dev/null; then break; fi
        sleep 0.1
    done
    rm -rf "$state/node"
}

node_processes() {
    local process
    for process in /proc/[0-9]*; do
        if [[ $process/ns/net -ef $state/node/namespaces/net ]]; then echo "${process##*/}"; fi
    done
    find /sys/fs/cgroup -path "*/$cgroup/*" -name cgroup.procs -exec cat {} + 2>/dev/null |
        sort -nu | grep -vx 0 || true
}
