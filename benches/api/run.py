#!/usr/bin/env python3
"""Headgate's API beside a bare actix and sqlx service, over one Postgres in one run.

    run.py [--binary target/release/headgate] [--bare PATH] [--seconds 5] [--repeat 5] [--connections 32] [--check]

POST: Headgate checks a token, validates, plans, keeps an idempotency key that never repeats and writes the export with
its first event; the bare service writes one row. GET: one export of 10,000 by its id, against one row by its key. wrk
is the load: one thread, a closed loop. Contestants take turns; medians are printed, and the ratio of neighbours.
Headgate runs without its worker, so that nothing but the API is measured. `synchronous_commit` is on.

Installs nothing. Needs wrk and psql: `apt-get install wrk postgresql-client`. How to read it: docs/PERFORMANCE.md.
"""

import argparse
import json
import os
import pathlib
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "benches"))
from relay import socket_folders, usage  # noqa: E402

HEADGATE, BARE = 18281, 18282
STORED = 10_000
BODY = '{"connection":"bench","dataset":"audience_members","parameters":{"audience":{"kind":"segment","id":"%s"}}}'
DONE = """
done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format("RES %d %d %d %d\\n", summary.requests, latency:percentile(50), latency:percentile(99),
    errors.status + errors.timeout + errors.read + errors.connect))
end
"""


def build():
    """The path of the bare service, built like the release."""
    words = ["cargo", "build", "--release", "--locked", "--bench", "bare", "--message-format", "json"]
    said = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = [json.loads(line) for line in said.splitlines()]
    return next(one["executable"] for one in built if one.get("target", {}).get("name") == "bare" and one.get("executable"))


class Bench:
    def __init__(self, given, folder):
        self.given, self.folder = given, folder
        secret = secrets.token_hex(32)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HEADGATE_LISTEN": f"127.0.0.1:{HEADGATE}",
            "HEADGATE_DATA_DIR": str(folder / "data"),
            "HEADGATE_JWT_SECRET": secret,
            "HEADGATE_LOG": "warn",
        }
        log = open(folder / "log", "w")
        self.processes = {
            "headgate": subprocess.Popen([given.binary, "serve", "--no-worker"], env=self.environment, stdout=log, stderr=log)
        }
        self.wait(HEADGATE, "/healthz")
        socket = next(path for path in socket_folders(folder / "data") if path.is_socket())
        self.port = socket.name.rsplit(".", 1)[1]
        self.host = socket.parent
        self.sql("create table bare_job (id bigint generated always as identity primary key, connection text not null, "
                 "dataset text not null, state text not null default 'queued', parameters jsonb not null, "
                 "created_at timestamptz not null default now())")  # fmt: skip
        url = f"postgres://headgate@localhost:{self.port}/headgate?host={self.host}"
        self.processes["bare"] = subprocess.Popen([given.bare, url, str(BARE)], stdout=log, stderr=log)
        self.wait(BARE, "/jobs/0")
        self.token = self.make_token("exports:read exports:write connections:admin")
        connection = {"vendor": "braze", "display_name": "Bench", "settings": {"base_url": "https://rest.fra-01.braze.eu"},
                      "credentials": {"api_key": "bench"}}  # fmt: skip
        self.call("PUT", "/v1/connections/bench", connection)
        self.fill()

    def make_token(self, scope):
        words = [self.given.binary, "token", "--sub", "bench", "--tenant", "bench", "--scope", scope, "--connections", "*"]
        return subprocess.run(words, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()

    def wait(self, port, path):
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit((self.folder / "log").read_text())

    def call(self, method, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{HEADGATE}{path}", json.dumps(body).encode(), method=method,
            headers={"authorization": f"Bearer {self.token}", "content-type": "application/json"},
        )  # fmt: skip
        return json.load(urllib.request.urlopen(request))

    def sql(self, statement):
        words = ["psql", "-qtAX", "-v", "ON_ERROR_STOP=1", "-h", str(self.host), "-p", self.port, "-U", "headgate"]
        run = subprocess.run([*words, "-d", "headgate", "-c", statement], check=True, capture_output=True, text=True)
        return run.stdout.split()

    def fill(self):
        """As many rows on both sides. One export is made by the API, the others are its copies."""
        first = self.call("POST", "/v1/exports", json.loads(BODY % "stored"))["id"]
        columns = self.sql("select string_agg(quote_ident(column_name), ', ') from (select column_name from "
                           "information_schema.columns where table_name = 'export' and is_generated = 'NEVER' and "
                           "column_name not in ('export_id', 'callback_token_sha256') order by ordinal_position) own")
        columns = " ".join(columns)
        self.sql(f"insert into export (export_id, {columns}) select gen_random_uuid(), {columns} from export, "
                 f"generate_series(1, {STORED})")  # fmt: skip
        self.sql("insert into bare_job (connection, dataset, parameters) select 'bench', 'audience_members', "
                 f"'{json.dumps(json.loads(BODY % 'stored')['parameters'])}' from generate_series(1, {STORED})")  # fmt: skip
        self.sql("analyze")
        ids = self.sql("select export_id from export")
        prefix = first.split("_")[0]
        (self.folder / "ids").write_text("\n".join(f"{prefix}_{one.replace('-', '')}" for one in ids))

    def script(self, name, what):
        auth = f'wrk.headers["authorization"] = "Bearer {self.token}"\n' if name == "headgate" else ""
        path = "/v1/exports" if name == "headgate" else "/jobs"
        if what == "post":
            body = BODY.replace("%s", "%d")
            key = 'wrk.headers["idempotency-key"] = run .. count\n  ' if name == "headgate" else ""
            text = f"""{auth}wrk.headers["content-type"] = "application/json"
local count, run = 0, "{secrets.token_hex(8)}-"
request = function()
  count = count + 1
  {key}return wrk.format("POST", "{path}", nil, string.format([[{body}]], count))
end
"""
        else:
            find = f"""local ids = {{}}
for id in io.lines("{self.folder}/ids") do ids[#ids + 1] = id end
""" if name == "headgate" else f"local ids = {{}}\nfor id = 1, {STORED} do ids[id] = id end\n"
            text = f"""{auth}{find}math.randomseed({secrets.randbelow(1 << 30)})
request = function() return wrk.format("GET", "{path}/" .. ids[math.random(#ids)]) end
"""
        file = self.folder / f"{name}.{what}.lua"
        file.write_text(text + DONE)
        return file

    def run(self, name, what):
        port = HEADGATE if name == "headgate" else BARE
        words = ["wrk", "-t1", f"-c{self.given.connections}", f"-d{self.given.seconds}s", "-s", str(self.script(name, what))]
        pid = self.processes[name].pid
        cpu, _ = usage(pid)
        said = subprocess.run([*words, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True).stdout
        after, rss = usage(pid)
        requests, p50, p99, errors = map(int, re.search(r"RES (\d+) (\d+) (\d+) (\d+)", said).groups())
        rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said)[1])
        return {"rate": rate, "p50": p50 / 1e3, "p99": p99 / 1e3, "errors": errors, "rss": rss / (1 << 20),
                "cpu": (after - cpu) / max(requests, 1) * 1e6}  # fmt: skip

    def stop(self):
        for process in reversed(self.processes.values()):
            process.terminate()
            process.wait()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", default=str(ROOT / "target/release/headgate"))
    arguments.add_argument("--bare")
    arguments.add_argument("--seconds", type=int, default=5)
    arguments.add_argument("--repeat", type=int, default=5)
    arguments.add_argument("--connections", type=int, default=32)
    arguments.add_argument("--check", action="store_true", help="exit with 1 if a promise is broken")
    given = arguments.parse_args()
    given.bare = given.bare or build()
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        # The private Postgres drops to another user and must pass through.
        folder.chmod(0o755)
        bench = Bench(given, folder)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {given.connections} connections, {given.seconds} s, "
              f"medians of {given.repeat}")  # fmt: skip
        print(f"{'':14}{'req/s':>8}{'p50 ms':>8}{'p99 ms':>8}{'us CPU':>8}{'RSS MiB':>9}  errors")
        try:
            for what, goal in (("post", 1.0), ("get", 2.0)):
                runs = {"headgate": [], "bare": []}
                for _ in range(given.repeat):
                    for name, own in runs.items():
                        own.append(bench.run(name, what))
                middle = {name: {key: statistics.median(run[key] for run in own) for key in own[0]} for name, own in runs.items()}
                for name, one in middle.items():
                    print(f"{what:5}{name:9}{one['rate']:>8.0f}{one['p50']:>8.1f}{one['p99']:>8.1f}{one['cpu']:>8.0f}"
                          f"{one['rss']:>9.1f}  {sum(run['errors'] for run in runs[name])}")  # fmt: skip
                ratio = statistics.median(ours["rate"] / theirs["rate"] for ours, theirs in zip(runs["headgate"], runs["bare"]))
                tail = middle["headgate"]["p99"] / middle["bare"]["p99"]
                for is_kept, says in ((ratio >= goal, f"{what}: {ratio:.2f} x the bare service's requests per second (promised {goal})"),
                                      (tail <= 1, f"{what}: {tail:.2f} x its p99 (promised 1)")):  # fmt: skip
                    print(f"{'kept  ' if is_kept else 'BROKEN'} {says}")
                    broken += not is_kept
        finally:
            bench.stop()
    return 1 if given.check and broken else 0


if __name__ == "__main__":
    sys.exit(main())
