# The broker in a container; how to run it: docs/operations.md. Built, run, killed and restarted by deploy/test-image.
#
#   docker build -t naru --build-arg NARU_REVISION=$(git rev-parse --short HEAD) .
#   podman build --format docker -t naru .        # without --format docker there is no HEALTHCHECK in the image
#
# Only what buildah 1.28 and every newer builder understands: no heredocs, no COPY --link, no COPY --parents.

ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
# libc, libgcc and a user 65532: no shell, no package manager. Another one needs a glibc at least as new as the builder's.
ARG RUN_BASE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_BASE} AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY benches benches
COPY src src
ARG NARU_REVISION=""
# The caches hold the dependencies. What is ours is compiled every time: a cache can be newer than a source that was changed.
# An empty revision is taken away, so that `naru version` says nothing instead of "()".
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    if [ -z "$NARU_REVISION" ]; then unset NARU_REVISION; fi && \
    touch build.rs src/lib.rs src/main.rs && \
    cargo build --locked --release --bin naru && \
    mkdir -p /out/bin /out/lib/naru && \
    chmod 0700 /out/lib/naru && \
    cp target/release/naru /out/bin/naru

FROM ${RUN_BASE}
ARG NARU_REVISION=""
LABEL org.opencontainers.image.title="Naru" \
      org.opencontainers.image.description="A message broker in one small binary: an acknowledged record is on disk" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${NARU_REVISION}"
COPY LICENSE /usr/share/doc/naru/LICENSE
COPY --from=build --chmod=0755 /out/bin/naru /usr/local/bin/naru
# Holds the directory `naru`, which so keeps its mode and gets the user below; a new named volume takes over both.
COPY --from=build --chown=65532:65532 /out/lib/ /var/lib/

# Variables and no flags, because a flag would win over what `docker run -e` says. All addresses of the container, since nobody
# reaches its loopback from outside. The broker refuses that until NARU_SERVER__INSECURE_NO_AUTH=true says that the network
# keeps strangers out: nobody has to log in, so it is for whoever publishes the ports to say, not for the image.
ENV NARU_STORAGE__DATA_DIR=/var/lib/naru \
    NARU_SERVER__LISTEN=0.0.0.0:9640 \
    NARU_SERVER__HTTP=0.0.0.0:9641 \
    NARU_LOG__FORMAT=json

# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /
VOLUME ["/var/lib/naru"]
EXPOSE 9640 9641
STOPSIGNAL SIGTERM
# Recovery reads at most the journal, seconds; start-period covers a slow disk.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/usr/local/bin/naru", "healthcheck", "--timeout", "3s"]
ENTRYPOINT ["/usr/local/bin/naru"]
CMD ["serve"]
