"""What one would write with DuckDB or polars for the same work.

usage: peers.py ENGINE TARGET IN OUT

ENGINE: duckdb or polars. TARGET: users-ndjson, users-ndjson-gzip, users-csv, users-parquet, events-parquet,
events-ndjson. IN: for users `-` (NDJSON on standard input) or a folder of unpacked members; for events the gzip'd CSV.
"""

import sys

# What Braze calls it, what user.v1 calls it, its type.
USER = [
    ("external_id", "user_id", "VARCHAR"),
    ("braze_id", "vendor_user_id", "VARCHAR"),
    ("first_name", "first_name", "VARCHAR"),
    ("last_name", "last_name", "VARCHAR"),
    ("email", "email", "VARCHAR"),
    ("dob", "birth_date", "VARCHAR"),
    ("country", "country", "VARCHAR"),
    ("language", "language", "VARCHAR"),
    ("time_zone", "time_zone", "VARCHAR"),
    ("gender", "gender", "VARCHAR"),
    ("created_at", "created_at", "VARCHAR"),
    ("random_bucket", "random_bucket", "BIGINT"),
    ("total_revenue", "total_revenue", "DOUBLE"),
    ("email_subscribe", "email_subscribe", "VARCHAR"),
]
# Of 14 columns, those that the NDJSON targets have; `plan` of the custom attributes is the twelfth.
NARROW = [column for column in USER if column[0] not in ("gender", "random_bucket", "email_subscribe")]
WHOLE_NUMBERS = ("time", "sendTime", "pageTime", "eventNumber")


def duckdb(target, source, out):
    import duckdb as library

    db = library.connect()
    what, _, form = target.partition("-")
    options = {
        "ndjson": "FORMAT json",
        "ndjson-gzip": "FORMAT json, COMPRESSION gzip",
        "csv": "FORMAT csv, HEADER",
        "parquet": "FORMAT parquet, COMPRESSION zstd",
    }[form]
    if what == "events":
        from generate import COLUMNS

        columns = ", ".join(f"{name}: '{'BIGINT' if name in WHOLE_NUMBERS else 'VARCHAR'}'" for name in COLUMNS)
        query = (
            f"FROM read_csv('{source}', header = true, compression = 'gzip', delim = ',', quote = '\"', "
            f"escape = '\"', columns = {{{columns}}})"
        )
    else:
        columns = ", ".join(f"{name}: '{kind}'" for name, _, kind in USER)
        path = "/dev/stdin" if source == "-" else source + "/*.txt"
        read = (
            f"FROM read_json('{path}', format = 'newline_delimited', "
            f"columns = {{{columns}, custom_attributes: 'JSON'}})"
        )
        chosen = [f"{name} AS {ours}" for name, ours, _ in (NARROW if form.startswith("ndjson") else USER)]
        if form.startswith("ndjson"):
            chosen.append("custom_attributes->>'$.plan' AS plan")
        elif form == "parquet":
            chosen.append("custom_attributes AS attributes")
        query = f"SELECT {', '.join(chosen)} {read}"
    db.execute(f"COPY ({query}) TO '{out}' ({options})")


def polars(target, source, out):
    import polars as pl

    what, _, form = target.partition("-")
    if what == "events":
        from generate import COLUMNS

        schema = {name: pl.Int64 if name in WHOLE_NUMBERS else pl.String for name in COLUMNS}
        rows = pl.scan_csv(source, schema=schema)
    else:
        kinds = {"VARCHAR": pl.String, "BIGINT": pl.Int64, "DOUBLE": pl.Float64}
        schema = {name: kinds[kind] for name, _, kind in USER}
        # polars reads an object by its members only: the caller must know them all beforehand.
        if form == "parquet":
            schema["custom_attributes"] = pl.Struct({
                "plan": pl.String, "loyalty_points": pl.Int64, "score": pl.Float64, "newsletter": pl.Boolean,
                "last_visit": pl.String, "tags": pl.List(pl.String), "note": pl.String, "referrer": pl.String,
                "size": pl.Struct({"shirt": pl.String, "shade": pl.String}), "tier": pl.Int64,
            })  # fmt: skip
        elif form != "csv":
            schema["custom_attributes"] = pl.Struct({"plan": pl.String})
        rows = pl.scan_ndjson(source + "/*.txt", schema=schema)
        chosen = [pl.col(name).alias(ours) for name, ours, _ in (NARROW if form.startswith("ndjson") else USER)]
        if form.startswith("ndjson"):
            chosen.append(pl.col("custom_attributes").struct.field("plan"))
        elif form == "parquet":
            chosen.append(pl.col("custom_attributes").struct.json_encode().alias("attributes"))
        rows = rows.select(chosen)
    if form == "parquet":
        rows.sink_parquet(out, compression="zstd")
    elif form == "csv":
        rows.sink_csv(out)
    elif form == "ndjson-gzip":
        rows.sink_ndjson(out, compression="gzip", check_extension=False)
    else:
        rows.sink_ndjson(out)


if __name__ == "__main__":
    engine, *rest = sys.argv[1:]
    {"duckdb": duckdb, "polars": polars}[engine](*rest)
