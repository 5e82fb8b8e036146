# shellcheck shell=bash
# The Debian packages and the container images of level node.
# Sourced by ../cluster.

# install_packages: the packages with the programs that node and builds call.
install_packages() {
    local pair missing=() log=$cache/packages.log
    for pair in buildah=buildah cc=gcc ip=iproute2 ipset=ipset iptables=iptables \
        pkg-config=pkg-config socat=socat; do
        command -v "${pair%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    pkg-config --exists libseccomp 2>/dev/null || missing+=(libseccomp-dev)
    # It is the only file of an image, so it must be linked statically.
    [[ $(ldd "$(command -v busybox)" 2>&1) == *"not a dynamic"* ]] || missing+=(busybox-static)
    ((${#missing[@]})) || return 0
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        fail "level node needs these Debian packages: ${missing[*]}"
    fi
    mkdir -p "$cache"
    with_progress "installing ${missing[*]}" "$log" apt_install "${missing[@]}" ||
        give_up "$log" "apt-get cannot install ${missing[*]}"
}

apt_install() {
    apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

make_images() {
    make_image pause '["/bin/sleep", "2147483647"]'
    make_image busybox '["/bin/sh"]'
}

# make_image IMAGE COMMAND: puts an image localhost/IMAGE:1, busybox alone, into
# the cache. No image registry is used.
make_image() {
    local image=$1 command=$2 work lock
    mkdir -p "$cache/images"
    exec {lock}>"$cache/images/.$image.lock"
    flock "$lock"
    if [[ ! -f $cache/images/$image.tar ]]; then
        work=$(mktemp -d "$cache/images/.$image.XXXXXX")
        scratch+=("$work")
        with_progress "building the image localhost/$image:1" "$work/log" \
            build_image "$image" "$command" "$work" ||
            give_up "$work/log" "the image $image cannot be built"
        mv "$work/image.tar" "$cache/images/$image.tar"
        rm -rf "$work"
    fi
    exec {lock}>&-
}

# build_image IMAGE COMMAND FOLDER: writes FOLDER/image.tar.
build_image() {
    local image=localhost/$1:1 command=$2 work=$3 applet buildah
    mkdir -p "$work/root/bin" "$work/root/tmp" &&
        chmod 1777 "$work/root/tmp" &&
        cp "$(command -v busybox)" "$work/root/bin/busybox" || return
    for applet in $(busybox --list); do
        [[ $applet == busybox ]] || ln -s busybox "$work/root/bin/$applet"
    done
    printf '%s\n' 'FROM scratch' 'COPY root /' 'ENV PATH=/bin' "CMD $command" >"$work/Dockerfile"
    # A separate store with the vfs driver, which leaves no mounts behind.
    buildah=(buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs)
    "${buildah[@]}" build --isolation chroot --tag "$image" --file "$work/Dockerfile" "$work" &&
        "${buildah[@]}" push "$image" "docker-archive:$work/image.tar:$image"
}
