# The image: the server, the libraries that it is linked with, and nothing else. No shell, no user that could write.
#
#   docker build -t headless-dns:0.1.0 .
#
# config/image-root says what goes in; tests/image runs the server in exactly that.
#
# A tag moves with the updates of Debian, which the libraries in the image come from, and that is wanted. Whoever wants
# the same image again names the base by its digest: --build-arg BASE=rust@sha256:... Cargo.lock pins all crates.
ARG RUST=1.89
ARG DEBIAN=trixie
ARG BASE=rust:${RUST}-slim-${DEBIAN}

FROM ${BASE} AS build
WORKDIR /build
COPY . .
RUN cargo build --release --locked && config/image-root target/release/headless-dns /image

FROM scratch
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.title="headless-dns" \
      org.opencontainers.image.description="An authoritative DNS server for Kubernetes headless Services and StatefulSet Pods" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
# A number, so that the kubelet can see that it is not root.
USER 65532:65532
# Questions; and health and figures, but nothing that shows names.
ENV HEADLESS_DNS_LISTEN=0.0.0.0:1053,[::]:1053 \
    HEADLESS_DNS_ADMIN=0.0.0.0:9153
EXPOSE 1053/udp 1053/tcp 9153/tcp
ENTRYPOINT ["/headless-dns"]
CMD ["serve"]
