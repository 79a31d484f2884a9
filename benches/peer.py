"""What an application would write for itself: Braze's archive to the rows of user.v1, with Python's standard library.

usage: peer.py ARCHIVE RESULT

Prints its own figures as JSON. The benchmark holds its result against the same truth as the gateway's.
"""

import json
import resource
import sys
import time
import zipfile
from datetime import datetime, timezone

COLUMNS = {
    "user_id": "external_id",
    "vendor_user_id": "braze_id",
    "identities": None,
    "email": "email",
    "phone": "phone",
    "first_name": "first_name",
    "last_name": "last_name",
    "gender": "gender",
    "birth_date": "dob",
    "country": "country",
    "city": "home_city",
    "language": "language",
    "time_zone": "time_zone",
    "created_at": "created_at",
}
NOT_ACTIVITY = {*COLUMNS.values(), "user_aliases", "custom_attributes"}


def instant(text):
    if text is None:
        return None
    at = datetime.fromisoformat(text.replace(" UTC", "+00:00")).astimezone(timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def identities(user):
    found = {name: [user[name]] for name in ("external_id", "braze_id") if user.get(name) is not None}
    for alias in user.get("user_aliases") or ():
        found.setdefault("alias:" + alias["alias_label"], []).append(alias["alias_name"])
    return found


def row(user):
    unified = {column: user.get(field) for column, field in COLUMNS.items()}
    unified["identities"] = identities(user)
    unified["created_at"] = instant(user.get("created_at"))
    unified["attributes"] = user.get("custom_attributes") or {}
    unified["activity"] = {
        name: value for name, value in user.items() if name not in NOT_ACTIVITY and value is not None
    }
    return unified


def main(archive, result):
    began = time.monotonic()
    with zipfile.ZipFile(archive) as members, open(result, "w", encoding="utf-8") as out:
        for member in members.namelist():
            with members.open(member) as lines:
                for line in lines:
                    out.write(json.dumps(row(json.loads(line)), ensure_ascii=False, separators=(",", ":")))
                    out.write("\n")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "wall_s": time.monotonic() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_kib": usage.ru_maxrss,
    }
    print(json.dumps(figures))


main(*sys.argv[1:])
