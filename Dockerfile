# syntax=docker/dockerfile:1
# The gateway on Debian 12. The database is another container's: see docker-compose.yml.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# What was built stays in the builder's cache, so that a change of ours does not build the dependencies again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin headgate && cp target/release/headgate /usr/local/bin/

FROM debian:12-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 10001 headgate \
    && useradd --system --uid 10001 --gid headgate --no-create-home --home-dir /var/lib/headgate headgate \
    && install --directory --owner=headgate --group=headgate --mode=0700 /var/lib/headgate
COPY --from=build /usr/local/bin/headgate /usr/local/bin/headgate
ENV HEADGATE_LISTEN=0.0.0.0:8080 \
    HEADGATE_DATA_DIR=/var/lib/headgate
USER headgate
WORKDIR /var/lib/headgate
VOLUME /var/lib/headgate
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["headgate", "healthcheck"]
# The gateway drains on SIGTERM and starts no process that would need reaping, so it can be process 1.
ENTRYPOINT ["headgate"]
CMD ["serve"]
