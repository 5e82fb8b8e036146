# One image for all that `venom` is: the operator, and later the nodes.
#
#   docker build -t venom:0.1.0 .          (podman builds it as well)
#
# It holds the program, the C library it is linked to, certificates and two users: no shell, no package manager.
# It runs with a read-only root file system. e2e/image builds the last stage, as it stands here, where no
# registry of images can be reached.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive a build, so that a change of the sources does not compile every dependency anew.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin venom && cp target/release/venom /venom

FROM debian:bookworm-slim AS debian
COPY e2e/rootfs /usr/local/bin/rootfs
RUN rootfs /rootfs

# A stage whose root is that folder.
FROM scratch AS rootfs
COPY --from=debian /rootfs /

FROM scratch
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="venom" \
      org.opencontainers.image.description="An auditable autopilot for a group of pods" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=rootfs / /
COPY --from=build /venom /usr/bin/venom
# By number: the kubelet cannot tell from a name that it is not root.
USER 65532:65532
ENTRYPOINT ["/usr/bin/venom"]
