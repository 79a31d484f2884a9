"""Who takes part in which target, and what Headgate promises there."""

import shlex

# Columns of user.v1, so that every contestant writes the same values: 12 of them, and 14.
NARROW = (
    "user_id,vendor_user_id,first_name,last_name,email,birth_date,country,language,time_zone,created_at,"
    "activity.total_revenue,attributes.plan"
)
WIDE = (
    "user_id,vendor_user_id,first_name,last_name,email,birth_date,country,language,time_zone,gender,created_at,"
    "activity.random_bucket,activity.total_revenue,activity.email_subscribe"
)
MIB = 2**20


class Target:
    """One kind of result from one kind of input.

    `rivals` are the contestants that Headgate is measured against, the fastest of them each time; the ratios are of MB
    per CPU second and of wall time. `memory` is in bytes.
    """

    def __init__(self, name, output, rivals, cpu, wall, memory, fields=None):
        self.name, self.output, self.rivals, self.fields = name, output, rivals, fields
        self.cpu, self.wall, self.memory = cpu, wall, memory
        self.what = name.partition("-")[0]


DUCKDB = ["duckdb-pipe", "duckdb-files"]
TARGETS = [
    Target("users-ndjson", "--format ndjson", DUCKDB, 2.0, 2.5, 64 * MIB, NARROW),
    Target("users-ndjson-gzip", "--format ndjson --compression gzip", DUCKDB, 1.5, 2.0, 64 * MIB, NARROW),
    Target("users-csv", "--format csv", DUCKDB, 2.0, 2.5, 64 * MIB, WIDE),
    Target("users-parquet", "--format parquet", DUCKDB, 1.5, 2.0, 128 * MIB, WIDE + ",attributes"),
    Target("events-parquet", "--format parquet", ["polars"], 1.2, 1.0, 128 * MIB),
    Target("events-ndjson", "--format ndjson", ["polars"], 1.5, 1.0, 128 * MIB),
]

# `{input}` is the archive as delivered, `{temporary}` an empty folder, `{out}` the file to make. Raw events exist in
# two dialects: `{backslash}` as GrowingIO writes them, `{doubled}` for readers that know no backslash.
OF_USERS = {
    "headgate": "{headgate} convert --vendor braze --dataset audience_members --fields {fields} {output} --single-file "
    "{input} --output {out}",
    "headgate-ordered": "{headgate} convert --vendor braze --dataset audience_members --fields {fields} {output} "
    "--single-file --ordered {input} --output {out}",
    "duckdb-pipe": "unzip -p {input} | {peer} duckdb {target} - {out}",
    "duckdb-files": "unzip -qj {input} -d {temporary} && {peer} duckdb {target} {temporary} {out}",
    "polars-files": "unzip -qj {input} -d {temporary} && {peer} polars {target} {temporary} {out}",
}
# Everything that was generated lies within.
WINDOW = '{"window":{"from":"2025-01-01T00:00:00Z","to":"2025-02-02T00:00:00Z"}}'
OF_EVENTS = {
    "headgate": "{headgate} convert --vendor growingio --dataset raw_events --tag custom_event "
    f"--parameters {shlex.quote(WINDOW)} " + "{output} --single-file {backslash} --output {out}",
    "headgate-ordered": "{headgate} convert --vendor growingio --dataset raw_events --tag custom_event "
    f"--parameters {shlex.quote(WINDOW)} " + "{output} --single-file --ordered {backslash} --output {out}",
    "duckdb": "{peer} duckdb {target} {doubled} {out}",
    "polars": "{peer} polars {target} {doubled} {out}",
}


def contestants(target):
    return OF_USERS if target.what == "users" else OF_EVENTS


def command(name, target, **places):
    """The line of bash by which a contestant makes a target."""
    text = contestants(target)[name]
    for key, value in {**places, "target": target.name, "fields": target.fields, "output": target.output}.items():
        text = text.replace("{" + key + "}", str(value))
    return text
