# The project's commands: `just` lists them. CI calls the same programs through .ci/run.

# Lists the recipes
default:
    @just --list

# Serves with an embedded database; `just dev --log headgate=debug` passes flags on
dev *flags:
    cargo run -- serve {{flags}}

# Runs all tests; a Postgres is found on this machine or fetched once
test *arguments:
    cargo test --locked {{arguments}}

# Runs this version beside an older one over one database; needs the older program's path
upgrade-test program:
    UPGRADE_FROM={{program}} cargo test --locked --test gateway -- --ignored two_versions_work_side_by_side

# Writes down the statements of this version, which the next one must understand; once for each release
upgrade-statements:
    UPGRADE_WRITE=1 cargo test --locked --test gateway -- --ignored write_the_statements_of_this_version

# Everything a change must pass besides the tests
check:
    cargo fmt --check
    cargo clippy --locked --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
    cargo run --locked --quiet -- openapi --check
    @if command -v cargo-deny >/dev/null; then cargo deny --all-features check; else echo "cargo-deny is not installed: advisories and licences were not checked"; fi

# Measures whole exports in a release build; `just bench 1000 10000` names other sizes
bench *sizes:
    cargo bench --locked --bench export -- {{sizes}}

# Measures the job engine beside graphile-worker; needs node for that. `just bench-engine --jobs 1000 --finished 10000` is quick
bench-engine *arguments:
    cargo bench --locked --bench engine -- {{arguments}}

# Measures downloads of 1 GiB beside nginx, and a thousand slow readers; needs nginx, wrk and psql (Debian packages)
bench-relay *arguments:
    cargo build --locked --release
    python3 benches/relay.py {{arguments}}

# Measures the API beside a bare actix and sqlx service; needs wrk and psql (Debian packages)
bench-api *arguments:
    cargo build --locked --release
    python3 benches/api/run.py {{arguments}}

# Measures the pipeline against DuckDB and polars; needs python3 and unzip. `--help` shows what can be chosen
bench-transform *arguments:
    cargo build --locked --release
    python3 benches/transform/run.py {{arguments}}

# Feeds each reader of foreign bytes with made-up ones, so many seconds each; needs `cargo install cargo-fuzz` and g++
fuzz seconds="60":
    #!/usr/bin/env bash
    set -euo pipefail
    for target in archive csv_backslash csv_either ndjson_select raw_lines; do
        # What is found goes below target/, only what is worth keeping is added to fuzz/corpus by hand.
        mkdir -p "target/fuzz/corpus/$target"
        cargo fuzz run --sanitizer none --target-dir target/fuzz "$target" "target/fuzz/corpus/$target" "fuzz/corpus/$target" -- \
            -max_total_time={{seconds}} -rss_limit_mb=1024 -timeout=10 -artifact_prefix=target/fuzz/
    done

# Writes the OpenAPI documents that `check` compares
openapi:
    cargo run --locked --quiet -- openapi --write

# Runs the simulated vendors
sandbox *arguments:
    cargo run -- sandbox {{arguments}}

# Runs one export from start to end against the simulated vendors
demo *arguments:
    cargo run -- demo {{arguments}}
