#!/usr/bin/env python3
"""Downloads through Headgate beside nginx: speed, cost and memory.

    relay.py [--binary target/release/headgate] [--seconds 8] [--repeat 3] [--slow 1000] [--only relay|slow]

One nginx serves a file of 1 GiB. Headgate's object store is that very nginx (it ignores the signature of S3 requests
and answers GET with ranges and tags), so a download of the file through Headgate and one through nginx as a tuned proxy
move the same bytes over the same two hops. A second pair serves the file from a local folder: Headgate, and the origin
itself. Headgate checks a token and reads its manifest for each request; the manifest is written by SQL.

Closed loops of wrk count body bytes, at 1 and at 64 connections; CPU time is that of the relay's processes alone, from
/proc; RSS is what they hold at the end of the run. Contestants take turns, and medians are printed.

`slow` opens many downloads that read a little and then almost nothing, and prints what the relay holds for them.

Installs nothing. Needs nginx, wrk and psql: `apt-get install nginx wrk postgresql`, and stop the service nginx starts.
"""

import argparse
import asyncio
import hashlib
import json
import os
import pathlib
import re
import resource
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORIGIN, PROXY, REMOTE, LOCAL = 18181, 18182, 18183, 18184
GIB = 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

NGINX = """
worker_processes 2; daemon on; pid {folder}/{name}.pid; error_log {folder}/{name}.err;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
    client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; }}
    server {{ listen 127.0.0.1:{port}; {body} }}
}}
"""
TUNED = """location / {
    proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_buffer_size 64k; proxy_buffers 16 64k; proxy_busy_buffers_size 256k; proxy_max_temp_file_size 0;
}"""


def tree(pid):
    """A process and its children, without Postgres, which serves no bytes."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            try:
                name = pathlib.Path(f"/proc/{child}/comm").read_text()
            except OSError:
                continue
            if "postgres" not in name:
                pids += tree(int(child))
    return pids


def usage(pid):
    """CPU seconds and resident bytes of a process and its children."""
    cpu = rss = 0
    for each in tree(pid):
        try:
            fields = pathlib.Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        cpu += int(fields[11]) + int(fields[12])
        rss += int(fields[21])
    return cpu / TICKS, rss * PAGE


def threads(pid):
    return sum(1 for _ in pathlib.Path(f"/proc/{pid}/task").iterdir())


class Nginx:
    def __init__(self, folder, name, port, body):
        conf = folder / f"{name}.conf"
        conf.write_text(NGINX.format(folder=folder, name=name, origin=ORIGIN, port=port, body=body))
        subprocess.run(["nginx", "-c", str(conf)], check=True, stderr=subprocess.DEVNULL)
        pid_file = folder / f"{name}.pid"
        while not pid_file.exists() or not pid_file.read_text().strip():
            time.sleep(0.02)
        self.pid = int(pid_file.read_text())

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)


class Headgate:
    """A gateway of its own, with one finished export of one file."""

    def __init__(self, binary, folder, name, port, storage, size, sha256, environment):
        self.folder = folder / name
        self.folder.mkdir()
        # The private Postgres drops to another user and must pass through.
        self.folder.chmod(0o755)
        self.base = f"http://127.0.0.1:{port}"
        secret = secrets.token_hex(32)
        self.environment = {
            "PATH": os.environ["PATH"],
            "HEADGATE_LISTEN": f"127.0.0.1:{port}",
            "HEADGATE_DATA_DIR": str(self.folder / "data"),
            "HEADGATE_STORAGE_URL": storage,
            "HEADGATE_JWT_SECRET": secret,
            "HEADGATE_LOG": "warn",
            **environment,
        }
        log = open(self.folder / "log", "w")
        self.process = subprocess.Popen([binary, "serve"], env=self.environment, stdout=log, stderr=log)
        self.pid = self.process.pid
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.base}/healthz").read()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((self.folder / "log").read_text()) from None
                time.sleep(0.1)
        self.export, self.file = uuid.uuid4(), uuid.uuid4()
        self.insert(size, sha256)
        words = [binary, "token", "--sub", "bench", "--tenant", "bench", "--scope", "exports:download"]
        self.token = subprocess.run(words, env=self.environment, check=True, capture_output=True, text=True).stdout.strip()
        self.path = f"/v1/exports/exp_{self.export.hex}/files/fil_{self.file.hex}"
        self.url = self.base + self.path

    def insert(self, size, sha256):
        socket = next(p for p in socket_folders(self.folder / "data") if p.is_socket())
        output = json.dumps({"format": "ndjson", "compression": "none", "schema": "unified"})
        statement = f"""
            insert into export (export_id, tenant, created_by, connection_id, connection, vendor, dataset, parameters,
                output, delivery, labels, state, finished_at, deadline_at, result_expires_at)
            values ('{self.export}', 'bench', 'bench', '{uuid.uuid4()}', 'c', 'braze', 'audience_members', '{{}}',
                '{output}', '{{"type": "gateway"}}', '{{}}', 'succeeded', now(), now(), now() + interval '1 day');
            insert into result_file (file_id, export_id, position, name, object_key, media_type, compression, bytes,
                records, sha256)
            values ('{self.file}', '{self.export}', 1, 'big.ndjson', 'big.bin', 'application/x-ndjson', 'none', {size},
                1, decode('{sha256}', 'hex'));"""
        port = socket.name.rsplit(".", 1)[1]
        words = ["psql", "-qX", "-v", "ON_ERROR_STOP=1", "-h", str(socket.parent), "-p", port, "-U", "headgate"]
        subprocess.run([*words, "-d", "headgate", "-c", statement], check=True)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def socket_folders(data):
    yield from data.rglob(".s.PGSQL.*[0-9]")
    # A deep data directory has its socket elsewhere: Postgres says where.
    for file in data.rglob("postmaster.pid"):
        lines = file.read_text().splitlines()
        yield pathlib.Path(lines[4]) / f".s.PGSQL.{lines[3]}"


def wrk(url, connections, seconds, token):
    words = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "120s"]
    if token:
        words += ["-H", f"authorization: Bearer {token}"]
    said = subprocess.run([*words, url], capture_output=True, text=True, check=True).stdout
    read = re.search(r"requests in [\d.]+\w+, ([\d.]+)([KMGT]?)B read", said)
    errors = "Socket errors" in said or "Non-2xx" in said
    return float(read[1]) * {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[read[2]], errors


def relay(contestants, seconds, repeat):
    rows = {}
    for connections in (1, 64):
        for _ in range(repeat):
            for name, url, pid, token in contestants:
                cpu, _ = usage(pid)
                began = time.monotonic()
                moved, errors = wrk(url, connections, seconds, token)
                wall = time.monotonic() - began
                after, rss = usage(pid)
                row = (moved / 1e6 / wall, moved / 1e6 / max(after - cpu, 0.01), rss / (1 << 20), errors)
                rows.setdefault((connections, name), []).append(row)
    print(f"{'streams':>7} {'relay':<16} {'MB/s':>7} {'MB per CPU s':>12} {'RSS MiB':>8}  runs with errors")
    for (connections, name), runs in rows.items():
        middle = [statistics.median(run[at] for run in runs) for at in range(3)]
        print(f"{connections:>7} {name:<16} {middle[0]:>7.0f} {middle[1]:>12.0f} {middle[2]:>8.1f}  {sum(r[3] for r in runs)}")


async def slow_reader(gateway, first):
    """Reads `first` bytes and holds the connection; the caller closes it."""
    port = int(gateway.base.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    writer.write(f"GET {gateway.path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.token}\r\n\r\n".encode())
    await reader.readexactly(first)
    return reader, writer


async def slow(gateway, count):
    before = usage(gateway.pid)[1]
    gate = asyncio.Semaphore(50)

    async def begin():
        async with gate:
            return await slow_reader(gateway, 64 * 1024)

    readers = await asyncio.gather(*(begin() for _ in range(count)))
    print(f"{'after s':>7} {'RSS MiB':>8} {'KiB each':>9} {'threads':>8}")
    for step in range(6):
        await asyncio.sleep(2)
        cpu, rss = usage(gateway.pid)
        print(f"{(step + 1) * 2:>7} {rss / (1 << 20):>8.1f} {(rss - before) / count / 1024:>9.0f} {threads(gateway.pid):>8}")
        for reader, _ in readers:
            await reader.read(4096)
    began = time.monotonic()
    with urllib.request.urlopen(f"{gateway.base}/healthz") as answer:
        answer.read()
    print(f"another request beside them took {(time.monotonic() - began) * 1000:.1f} ms")
    for _, writer in readers:
        writer.close()


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", default=str(ROOT / "target/release/headgate"))
    options.add_argument("--seconds", type=int, default=8)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--slow", type=int, default=1000)
    options.add_argument("--only", choices=["relay", "slow"])
    options.add_argument("--size", type=int, default=GIB)
    chosen = options.parse_args()
    missing = [name for name in ("nginx", "wrk", "psql") if not shutil.which(name)]
    if missing:
        sys.exit(f"not found: {', '.join(missing)}; see the head of this file")

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hg-relay-", dir="/tmp"))
    folder.chmod(0o755)
    running = []
    try:
        www = folder / "www" / "bucket"
        www.mkdir(parents=True)
        digest = hashlib.sha256()
        with open(www / "big.bin", "wb") as out:
            for _ in range(0, chosen.size, 1 << 20):
                block = os.urandom(1 << 20)
                digest.update(block)
                out.write(block)
        sha256 = digest.hexdigest()
        origin = Nginx(folder, "origin", ORIGIN, f"root {folder}/www;")
        running.append(origin)
        tuned = Nginx(folder, "tuned", PROXY, TUNED)
        running.append(tuned)
        aws = {
            "AWS_ENDPOINT": f"http://127.0.0.1:{ORIGIN}",
            "AWS_REGION": "none",
            "AWS_ACCESS_KEY_ID": "none",
            "AWS_SECRET_ACCESS_KEY": "none",
        }
        remote = Headgate(chosen.binary, folder, "remote", REMOTE, "s3://bucket", chosen.size, sha256, aws)
        running.append(remote)
        local = Headgate(chosen.binary, folder, "local", LOCAL, f"file://{www}", chosen.size, sha256, {})
        running.append(local)
        if chosen.only != "slow":
            big = "/bucket/big.bin"
            contestants = [
                ("nginx tuned", f"http://127.0.0.1:{PROXY}{big}", tuned.pid, None),
                ("headgate", remote.url, remote.pid, remote.token),
                ("nginx from disk", f"http://127.0.0.1:{ORIGIN}{big}", origin.pid, None),
                ("headgate folder", local.url, local.pid, local.token),
            ]
            print(f"{chosen.size >> 20} MiB, {chosen.seconds} s, medians of {chosen.repeat}, load {os.getloadavg()[0]:.1f}")
            relay(contestants, chosen.seconds, chosen.repeat)
        if chosen.only != "relay":
            for name, gateway in (("from an object store", remote), ("from a folder", local)):
                print(f"\n{chosen.slow} slow readers {name}")
                asyncio.run(slow(gateway, chosen.slow))
    finally:
        for each in reversed(running):
            each.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
