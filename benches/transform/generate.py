"""Makes what vendors deliver, the same bytes for the same size on every machine.

usage: generate.py users COUNT ARCHIVE.zip [--repeat TIMES]
       generate.py events COUNT BACKSLASH.csv.gz DOUBLED.csv.gz

`users` is a segment export of Braze's: one ZIP of NDJSON members, 5,000 users each, 2.0 kB a user. `--repeat` puts
every member in that often, packed once.
`events` is raw data of GrowingIO's: 20 columns, gzip members of 50,000 rows joined, written twice: with backslash
escapes, as GrowingIO writes, and with doubled quotes, for readers that know no backslash.
"""

import argparse
import multiprocessing
import random
import struct
import sys
import zlib

USERS_A_MEMBER = 5_000
ROWS_A_MEMBER = 50_000

GIVEN = (
    "Ada Björn Chiara Daniel Emre Fumiko Gustavo Hana Ibrahim Jürgen Katarzyna Leïla Mateo Noor Óscar Pooja 丽 建国"
).split()
FAMILY = [
    *"Almeida Bauer Chanda Díaz Eriksson Ferrari Görgülü Hernández Ito Jansen Kowalski Lefèvre Mbeki Novák".split(),
    "D'Arc",
    'von "Zu"',
    "王",
]
COUNTRIES = "AR AT BR CA CN DE ES FR GB IN IT JP MX PL US".split()
LANGUAGES = "de en es fr ja pt zh".split()
ZONES = "America/Chicago America/Bogota Asia/Shanghai Asia/Tokyo Europe/Madrid Europe/Warsaw Africa/Lagos".split()
PLANS = "free starter team business".split()
EVENTS = ["opened_app", "viewed_item", "added_to_basket", "began_checkout", "searched", "used_voucher"]
SUBSCRIPTIONS = ["opted_in", "opted_in", "subscribed", "unsubscribed"]
CITIES = ["Beijing, CN", "上海", "São Paulo", "Köln", "Osaka", "Lagos"]
SYSTEMS = ["iOS", "Android", "Windows", "macOS"]


def instant(chance):
    """A time of Braze's: RFC 3339 with milliseconds."""
    return "20%02d-%02d-%02dT%02d:%02d:%02d.%03dZ" % (
        17 + int(chance() * 9), 1 + int(chance() * 12), 1 + int(chance() * 28),
        int(chance() * 24), int(chance() * 60), int(chance() * 60), int(chance() * 1000),
    )  # fmt: skip


def user(number, draw):
    """One user object with what Braze documents for a segment export."""
    chance = draw.random

    def digits(count):
        return "%0*x" % (count, draw.getrandbits(4 * count))

    def below(most):
        return int(chance() * most)

    def pick(choices):
        return choices[int(chance() * len(choices))]

    def seen(name, most):
        return {"name": name, "first": instant(chance), "last": instant(chance), "count": 1 + below(most)}

    found = {
        "external_id": f"customer-{number:08}",
        "braze_id": digits(24),
        "user_aliases": [{"alias_name": "a-" + digits(8), "alias_label": "crm"}] if chance() < 0.8 else [],
        "first_name": pick(GIVEN),
        "last_name": pick(FAMILY),
        "email": f"{digits(6)}.{number}@example.org",
        "dob": "%d-%02d-%02d" % (1945 + below(62), 1 + below(12), 1 + below(28)),
        "country": pick(COUNTRIES),
        "language": pick(LANGUAGES),
        "time_zone": pick(ZONES),
        "gender": pick("MFON"),
        "created_at": instant(chance),
        "random_bucket": below(10_000),
        "total_revenue": round(chance() * 6_000, 2),
        "custom_attributes": {
            "plan": pick(PLANS),
            "loyalty_points": below(100_000),
            "score": round(chance(), 6),
            "newsletter": chance() < 0.5,
            "last_visit": instant(chance),
            "tags": [digits(5), digits(6), digits(4)],
            "note": 'says "quoted", tabs\t& ünïcode ❄ ' + digits(10),
            "referrer": None,
            "size": {"shirt": pick("SML"), "shade": digits(6)},
            "tier": below(9),
        },
        "custom_events": [seen(pick(EVENTS), 200) for _ in range(3)],
        "purchases": [seen("article-" + digits(6), 9) for _ in range(2)],
        "devices": [{
            "model": f"iPhone {8 + below(9)}", "os": f"iOS {12 + below(7)}.{below(6)}",
            "carrier": None, "idfv": digits(32), "ad_tracking_enabled": chance() < 0.3,
        }],
        "push_tokens": [{"app": "Shop", "platform": "iOS", "token": digits(64), "notifications_enabled": True}],
        "apps": [{
            "name": "Shop", "platform": "iOS", "version": f"{1 + below(9)}.{below(20)}.0",
            "sessions": below(500), "first_used": instant(chance), "last_used": instant(chance),
        }],
        "campaigns_received": [{
            "name": f"Autumn offers {below(99)}", "last_received": instant(chance),
            "engaged": {"opened_email": chance() < 0.4, "clicked_email": chance() < 0.1}, "converted": chance() < 0.05,
        } for _ in range(2)],
        "email_subscribe": pick(SUBSCRIPTIONS),
    }  # fmt: skip
    # Braze leaves out what it does not know.
    if chance() < 0.1:
        del found["last_name"]
    if chance() < 0.05:
        found["email"] = None
    if chance() < 0.02:
        del found["dob"], found["gender"]
    return found


def users_member(piece):
    """The unpacked size, checksum and packed bytes of one member."""
    import orjson

    number, count = piece
    draw = random.Random(f"users {number}")
    first = number * USERS_A_MEMBER
    raw = b"".join(
        orjson.dumps(user(first + at, draw), option=orjson.OPT_APPEND_NEWLINE) for at in range(count)
    )
    return len(raw), zlib.crc32(raw), deflated(raw)


def deflated(raw):
    pack = zlib.compressobj(6, zlib.DEFLATED, -15)
    return pack.compress(raw) + pack.flush()


class Archive:
    """Writes a ZIP of members that are packed already. Large ones are ZIP64."""

    def __init__(self, out):
        self.out, self.offset, self.raw, self.count, self.entries = out, 0, 0, 0, []

    def add(self, size, crc, packed):
        name = b"export/%06d.txt" % self.count
        self.count += 1
        # Version, flags, method, time, date, checksum, sizes, length of the name.
        common = struct.pack("<HHHHIIIH", 0, 8, 0x6000, 0x5A21, crc, len(packed), size, len(name))
        extra = b"" if self.offset < 0xFFFFFFFF else struct.pack("<HHQ", 1, 8, self.offset)
        self.out.write(b"PK\3\4" + struct.pack("<H", 45) + common + struct.pack("<H", 0) + name + packed)
        self.entries.append(
            b"PK\1\2" + struct.pack("<HH", 45, 45) + common
            + struct.pack("<HHHHII", len(extra), 0, 0, 0, 0, min(self.offset, 0xFFFFFFFF)) + name + extra
        )  # fmt: skip
        self.offset += 30 + len(name) + len(packed)
        self.raw += size

    def end(self):
        directory = b"".join(self.entries)
        count, size, start = len(self.entries), len(directory), self.offset
        self.out.write(directory)
        if start >= 0xFFFFFFFF or count >= 0xFFFF:
            self.out.write(b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start))
            self.out.write(b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1))
        count, start = min(count, 0xFFFF), min(start, 0xFFFFFFFF)
        self.out.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, count, count, size, start, 0))


def users(count, path, repeat):
    pieces = [(at // USERS_A_MEMBER, min(USERS_A_MEMBER, count - at)) for at in range(0, count, USERS_A_MEMBER)]
    with open(path, "wb") as out, multiprocessing.Pool() as pool:
        archive = Archive(out)
        for made in pool.imap(users_member, pieces):
            for _ in range(repeat):
                archive.add(*made)
        archive.end()
    return archive.raw


COLUMNS = (
    "visitUserId sessionId platform time sendTime pageTime domain page queryParameters referrer title eventName "
    "eventNumber eventVariable loginUserId operatingSystem operatingSystemVersion clientVersion city pageRequestId"
).split()


def event(draw):
    """One custom event as plain cells, in the order of `COLUMNS`: what GrowingIO documents for the table and, as it has
    done over the years, columns of other tables with it."""
    chance = draw.random

    def digits(count):
        return "%0*x" % (count, draw.getrandbits(4 * count))

    at = 1_735_689_600_000 + int(chance() * 2.6e9)
    item = int(chance() * 5_000)
    variables = '{"sku":"%s","quantity":"%d","variant":"v%d"}' % (digits(8), int(chance() * 9), int(chance() * 3))
    return (
        digits(16), f"{digits(8)}-{digits(4)}", "Web", str(at), str(at + int(chance() * 5_000)),
        str(at - int(chance() * 60_000)), "shop.example.com", f"/articles/{item}",
        "" if chance() < 0.5 else f"from=mail&n={int(chance() * 99)}",
        "" if chance() < 0.6 else f"https://search.example/{int(chance() * 99)}",
        f'Article "{item}" – détail', f"event_{int(chance() * 40)}", str(int(chance() * 60_000)), variables,
        "" if chance() < 0.4 else f"u{int(chance() * 900_000)}", draw.choice(SYSTEMS),
        f"{10 + int(chance() * 8)}.{int(chance() * 9)}", f"3.{int(chance() * 9)}.{int(chance() * 20)}",
        draw.choice(CITIES), digits(16),
    )  # fmt: skip


def quoted(cell, quote):
    return f'"{cell.replace(chr(34), quote)}"' if '"' in cell or "," in cell else cell


def gzipped(raw):
    tail = struct.pack("<II", zlib.crc32(raw), len(raw))
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + deflated(raw) + tail


def events_member(piece):
    """The unpacked size and the packed bytes of one gzip member in each dialect."""
    number, count = piece
    draw = random.Random(f"events {number}")
    rows = [event(draw) for _ in range(count)]
    made = []
    for quote in ('\\"', '""'):
        lines = [",".join(COLUMNS)] if number == 0 else []
        lines += [",".join(quoted(cell, quote) for cell in row) for row in rows]
        raw = ("\n".join(lines) + "\n").encode()
        made.append((len(raw), gzipped(raw)))
    return made


def events(count, backslash, doubled):
    pieces = [(at // ROWS_A_MEMBER, min(ROWS_A_MEMBER, count - at)) for at in range(0, count, ROWS_A_MEMBER)]
    raw = 0
    with open(backslash, "wb") as ours, open(doubled, "wb") as theirs, multiprocessing.Pool() as pool:
        for (size, escaped), (_, other) in pool.imap(events_member, pieces):
            ours.write(escaped)
            theirs.write(other)
            raw += size
    return raw


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=["users", "events"])
    arguments.add_argument("count", type=int)
    arguments.add_argument("paths", nargs="+")
    arguments.add_argument("--repeat", type=int, default=1)
    given = arguments.parse_args()
    if given.what == "users":
        raw = users(given.count, *given.paths, given.repeat)
    else:
        raw = events(given.count, *given.paths)
    print(raw)


if __name__ == "__main__":
    sys.exit(main())
