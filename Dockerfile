# One image for all subcommands of `venom`: the operator and the nodes use the same one.
#
#   docker build -t venom:0.1.0 .          (podman builds it as well)
#
# It contains the program, the C library, CA certificates and two users, but no shell and no package manager.
# It runs with a read-only root file system. e2e/image builds the last stage, as it stands here, without an
# image registry.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The cache mounts persist between builds, so that a change of the sources does not recompile the dependencies.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin venom && cp target/release/venom /venom

FROM debian:bookworm-slim AS debian
COPY e2e/rootfs /usr/local/bin/rootfs
RUN rootfs /rootfs

# A stage with that folder as its root.
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
# By number: the kubelet cannot verify runAsNonRoot with a user name.
USER 65532:65532
ENTRYPOINT ["/usr/bin/venom"]
