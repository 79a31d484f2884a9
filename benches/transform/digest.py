"""What a result says, whoever made it: rows, values by column, a sum, and all rows' hashes in one.

usage: digest.py SHAPE TARGET FILE...

SHAPE: `source` (what was generated; FILE `-` is standard input), `peer` (one column for each value) or `headgate` (the
unified schemas). Prints one line of JSON. Times and dates are compared as such and objects by their members; all else
as text, and an empty text is none, since CSV knows no difference.
"""

import json
import sys

import duckdb
from generate import COLUMNS
from peers import NARROW, USER

# Members of the custom attributes that are looked at where all of them are in the result.
ATTRIBUTES = ["$.plan", "$.loyalty_points", "$.note", "$.tags[1]", "$.size.shade", "$.tier"]
OBJECTS = ("attributes", "custom_attributes", "activity", "properties")
# Columns of event.v1 for raw columns; all others are members of `properties`.
EVENT = {"visitUserId": "visitor_id", "sessionId": "session_id", "loginUserId": "user_id"}
EVENT_TIMES = {"time": "event_time", "sendTime": "received_at"}


def reader(form, paths, columns):
    """SQL that reads files with every column as text; numbers and times of Parquet as they are typed."""
    paths = ["/dev/stdin" if path == "-" else path for path in paths]
    if form == "parquet":
        return f"read_parquet({paths})"
    if form == "csv":
        return f"read_csv({paths}, header = true, all_varchar = true, delim = ',', quote = '\"', escape = '\"')"
    compression = "gzip" if form.endswith("gzip") else "none"
    kinds = ", ".join(f"{name}: '{'JSON' if name in OBJECTS else 'VARCHAR'}'" for name in columns)
    return f"read_json({paths}, format = 'newline_delimited', compression = '{compression}', columns = {{{kinds}}})"


def users(shape, form, paths):
    """The reader, and the value of each column as text."""
    narrow = form.startswith("ndjson")
    columns = [ours for _, ours, _ in (NARROW if narrow else USER)]
    theirs = {ours: name for name, ours, _ in USER}
    in_activity = ("random_bucket", "total_revenue", "email_subscribe")
    values = {}
    for column in columns:
        if shape == "source":
            values[column] = theirs[column]
        elif shape == "headgate" and column in in_activity:
            values[column] = f"(activity::JSON->>'$.{column}')"
        else:
            values[column] = column
    values["created_at"] = f"epoch_ms({values['created_at']}::TIMESTAMPTZ)"
    values["birth_date"] += "::DATE"
    values["total_revenue"] += "::DECIMAL(18, 2)"
    attributes = "custom_attributes" if shape == "source" else "attributes"
    if narrow:
        values["plan"] = "plan" if shape == "peer" else f"({attributes}->>'$.plan')"
    elif form == "parquet":
        for path in ATTRIBUTES:
            values[path] = f"({attributes}::JSON->>'{path}')"
    if shape == "source":
        return reader("ndjson", paths, [*(name for name, _, _ in USER), "custom_attributes"]), values
    if shape == "peer":
        return reader(form, paths, [*columns, *(["plan"] if narrow else [])]), values
    plain = [column for column in columns if column not in in_activity]
    return reader(form, paths, [*plain, "activity", "attributes"]), values


def events(shape, form, paths):
    values = {}
    for column in COLUMNS:
        if shape != "headgate":
            values[column] = f'"{column}"'
        elif column in EVENT:
            values[column] = EVENT[column]
        elif column in EVENT_TIMES:
            values[column] = f"epoch_ms({EVENT_TIMES[column]}::TIMESTAMPTZ)"
        else:
            values[column] = f"(properties::JSON->>'$.{column}')"
    for member in ("sku", "quantity", "variant"):
        values[member] = f"({values['eventVariable']}::JSON->>'$.{member}')"
    del values["eventVariable"]
    if shape == "headgate":
        return reader(form, paths, ["event_type", *EVENT.values(), *EVENT_TIMES.values(), "properties"]), values
    if shape == "source":
        paths = ["/dev/stdin" if path == "-" else path for path in paths]
        dialect = "delim = ',', quote = '\"', escape = '\"'"
        return f"read_csv({paths}, header = true, all_varchar = true, compression = 'gzip', {dialect})", values
    return reader(form, paths, COLUMNS), values


def digest(shape, target, paths):
    what, _, form = target.partition("-")
    rows, values = (users if what == "users" else events)(shape, form, paths)
    names = list(values)
    inner = ", ".join(f"nullif(({value})::VARCHAR, '') AS c{at}" for at, value in enumerate(values.values()))
    counted = ", ".join(f"count(c{at})" for at in range(len(names)))
    row = ", chr(31), ".join(f"coalesce(c{at}, chr(30))" for at in range(len(names)))
    total = names.index("total_revenue" if what == "users" else "eventNumber")
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute("SET enable_progress_bar = false")
    found = db.execute(
        f"SELECT count(*), sum(c{total}::DECIMAL(18, 2)), bit_xor(hash(concat({row}))), {counted} "
        f"FROM (SELECT {inner} FROM {rows})"
    ).fetchone()
    rows, total, hashes, *counts = found
    return {"rows": rows, "sum": str(total), "hashes": str(hashes), "values": dict(zip(names, counts))}


if __name__ == "__main__":
    print(json.dumps(digest(sys.argv[1], sys.argv[2], sys.argv[3:])))
