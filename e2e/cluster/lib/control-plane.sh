# shellcheck shell=bash
# The programs of level control-plane. At level node the same programs run in
# the node's network namespace. Sourced by ../cluster.

readonly service_range=10.96.0.0/16
readonly first_service_address=10.96.0.1

# pick_ports: chosen under a lock of all clusters and kept in their settings,
# so that two concurrent starts do not choose the same.
pick_ports() {
    local taken use port
    taken=$(cat "$clusters"/*/settings 2>/dev/null || true)
    for use in api etcd peer controllers; do
        # Below the range of node ports, which policies let through, and
        # the kernel's range of ephemeral ports.
        until port=$((20000 + RANDOM % 10000)) && [[ $taken != *"$port"* ]] && is_free "$port"; do :; done
        taken+=" $port"
        echo "${use}_port=$port"
    done
}

is_free() {
    ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

write_settings() {
    mkdir -p "$state"
    exec 8>"$clusters/.ports.lock"
    flock 8
    {
        echo "level=$level"
        pick_ports
    } >"$state/settings.new"
    mv "$state/settings.new" "$state/settings"
    exec 8>&-
    read_settings
}

read_settings() {
    # shellcheck source=/dev/null
    source "$state/settings"
}

start_control_plane() {
    local pki=$state/pki extra=()
    read -ra extra <<<"${VENOM_ETCD_FLAGS:-}"
    start etcd "$(find_program etcd)" \
        --data-dir="$state/etcd" --unsafe-no-fsync --log-level=warn \
        --listen-client-urls="http://127.0.0.1:$etcd_port" \
        --advertise-client-urls="http://127.0.0.1:$etcd_port" \
        --listen-peer-urls="http://127.0.0.1:$peer_port" \
        ${extra[@]+"${extra[@]}"}
    start_api_server
    if [[ $level == node ]]; then
        start_gate
        start_containerd
    fi
    wait_until kube-apiserver "API server" api_ready "$kubeconfig"
    # Not before: it exits if the API server does not respond within 10 s.
    # With the default of 20 calls per second it takes 5 s to get its tokens;
    # its default plugin folder would be created on the machine itself.
    start kube-controller-manager "$(find_program kube-controller-manager)" \
        --kubeconfig="$pki/kube-controller-manager.conf" --leader-elect=false \
        --bind-address=127.0.0.1 --secure-port="$controllers_port" \
        --use-service-account-credentials --kube-api-qps=200 --kube-api-burst=400 \
        --flex-volume-plugin-dir="$state/volume-plugins" \
        --service-account-private-key-file="$pki/accounts.key" --root-ca-file="$pki/ca.crt" \
        --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key"
}

start_api_server() {
    local pki=$state/pki flags=() extra=()
    if [[ $level == node ]]; then
        flags=(--bind-address=0.0.0.0 --advertise-address="$node_address"
            --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing)
    else
        # It refuses to publish a loopback address as an endpoint.
        flags=(--bind-address=127.0.0.1 --endpoint-reconciler-type=none)
    fi
    read -ra extra <<<"${VENOM_APISERVER_FLAGS:-}"
    start kube-apiserver "$(find_program kube-apiserver)" \
        "${flags[@]}" --secure-port="$api_port" \
        --etcd-servers="http://127.0.0.1:$etcd_port" \
        --authorization-mode=Node,RBAC --allow-privileged \
        --enable-admission-plugins=OwnerReferencesPermissionEnforcement \
        --service-cluster-ip-range="$service_range" \
        --client-ca-file="$pki/ca.crt" \
        --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
        --kubelet-client-certificate="$pki/apiserver-client.crt" \
        --kubelet-client-key="$pki/apiserver-client.key" \
        --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy \
        --requestheader-username-headers=X-Remote-User \
        --requestheader-group-headers=X-Remote-Group \
        --requestheader-extra-headers-prefix=X-Remote-Extra- \
        --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$pki/accounts.pub" \
        --service-account-signing-key-file="$pki/accounts.key" \
        ${extra[@]+"${extra[@]}"}
}

wait_for_control_plane() {
    wait_until kube-apiserver "API server" api_ready "$kubeconfig"
    # No pod is admitted before the controllers have created this account.
    wait_until kube-controller-manager "default service account" \
        admin get serviceaccount default
}

# api_ready KUBECONFIG
api_ready() {
    local answer
    answer=$(KUBECONFIG=$1 "$(find_kubectl)" --request-timeout=5s get --raw=/readyz 2>/dev/null) &&
        [[ $answer == ok ]]
}

# admin ARGUMENTS...: kubectl as the cluster's administrator.
admin() {
    KUBECACHEDIR=$state/kubectl "$(find_kubectl)" --kubeconfig="$kubeconfig" "$@"
}

find_kubectl() {
    find_program kubectl || command -v kubectl
}
