# shellcheck shell=bash
# Certificates and kubeconfigs of one cluster, created at each start.
# Sourced by ../cluster, which sets $state and $api_port.

readonly openssl_settings='
[req]
distinguished_name = name
[name]
[ca]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
[client]
basicConstraints = critical, CA:false
extendedKeyUsage = clientAuth
[server]
basicConstraints = critical, CA:false
extendedKeyUsage = serverAuth
subjectAltName = IP:127.0.0.1, DNS:localhost, DNS:kubernetes, DNS:kubernetes.default, DNS:kubernetes.default.svc, DNS:kubernetes.default.svc.cluster.local'

make_credentials() {
    command -v openssl >/dev/null || fail "openssl is missing (Debian's package openssl)"
    mkdir -p -m 700 "$state/pki"
    echo "$openssl_settings, IP:$first_service_address, IP:$node_address" >"$state/pki/openssl.conf"
    make_certificate ca ca /CN=venom-development
    make_certificate server apiserver /CN=kube-apiserver
    make_certificate client apiserver-client /O=system:masters/CN=kube-apiserver-client
    make_certificate client front-proxy /CN=front-proxy
    make_certificate client admin /O=system:masters/CN=admin
    make_certificate client kube-controller-manager /CN=system:kube-controller-manager
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$state/pki/accounts.key"
    openssl pkey -in "$state/pki/accounts.key" -pubout -out "$state/pki/accounts.pub"
    write_kubeconfig admin "$kubeconfig"
    write_kubeconfig kube-controller-manager "$state/pki/kube-controller-manager.conf"
}

# make_certificate EXTENSIONS USER SUBJECT: writes pki/USER.crt and USER.key.
make_certificate() {
    local extensions=$1 user=$2 subject=$3 signer=()
    [[ $user == ca ]] || signer=(-CA "$state/pki/ca.crt" -CAkey "$state/pki/ca.key")
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \
        -config "$state/pki/openssl.conf" -extensions "$extensions" -subj "$subject" \
        ${signer[@]+"${signer[@]}"} \
        -keyout "$state/pki/$user.key" -out "$state/pki/$user.crt" 2>"$state/logs/openssl.log" ||
        { cat "$state/logs/openssl.log" >&2 && fail "openssl cannot make the certificate $user"; }
}

# write_kubeconfig USER FILE: valid inside and outside a node's namespace, because
# the API server has the same address and port on both.
write_kubeconfig() {
    local pki=$state/pki
    (
        umask 077
        cat >"$2" <<EOF
apiVersion: v1
kind: Config
clusters:
- name: $name
  cluster:
    server: https://127.0.0.1:$api_port
    certificate-authority-data: $(base64 -w0 <"$pki/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 <"$pki/$1.crt")
    client-key-data: $(base64 -w0 <"$pki/$1.key")
contexts:
- name: $name
  context: {cluster: $name, user: $1}
current-context: $name
EOF
    )
}
