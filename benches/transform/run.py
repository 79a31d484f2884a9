#!/usr/bin/env python3
"""Headgate's pipeline against DuckDB and polars, on the same files in one run.

Makes what it needs below target/bench-transform: a virtual environment with the pinned peers, and the generated files,
which are kept. Expects a release build of Headgate, and `unzip` and `python3` on this machine. How to read what it
prints: docs/PERFORMANCE.md.
"""

import argparse
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from contestants import MIB, NARROW, TARGETS, command, contestants  # noqa: E402
from measure import measure  # noqa: E402

HERE = Path(__file__).resolve().parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR") or HERE.parent.parent / "target").resolve()
PLACE = BUILT / "bench-transform"
PYTHON = PLACE / "venv/bin/python"
# More memory for ten times the users than this is growth.
GROWTH = 1.1


def prepare():
    """The peers, once for each version of the list."""
    wanted = (HERE / "requirements.txt").read_text()
    installed = PLACE / "venv/requirements.txt"
    if installed.exists() and installed.read_text() == wanted:
        return
    venv.create(PLACE / "venv", with_pip=True, clear=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    installed.write_text(wanted)


def script(name, *arguments):
    """Runs one of our scripts in the environment with the peers and answers what it printed."""
    run = subprocess.run([PYTHON, HERE / name, *map(str, arguments)], stdout=subprocess.PIPE, check=True, text=True)
    return run.stdout.strip()


def once(path, make):
    """Makes a file whole or not at all, if it is not there."""
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        make(new)
        new.rename(path)
    return path


class Users:
    """A generated segment export."""

    def __init__(self, count):
        self.count = count
        self.path = once(PLACE / f"data/users-{count}.zip", lambda new: script("generate.py", "users", count, new))
        with zipfile.ZipFile(self.path) as archive:
            self.raw = sum(member.file_size for member in archive.infolist())
        self.places = {"input": shlex.quote(str(self.path))}

    def says(self):
        packed = self.path.stat().st_size / 1e6
        return f"{self.count} users, {self.raw / 1e6:.0f} MB of NDJSON in a ZIP of {packed:.0f} MB"

    def source(self, target):
        """The digest of what was generated."""
        line = f"unzip -p {self.places['input']} | {PYTHON} {HERE / 'digest.py'} source {target.name} -"
        bash = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(bash, stdout=subprocess.PIPE, check=True, text=True).stdout


class Events:
    """Generated raw events, in both dialects."""

    def __init__(self, count):
        self.count = count
        self.backslash, self.doubled = (PLACE / f"data/events-{count}-{way}.csv.gz" for way in ("backslash", "doubled"))
        made = PLACE / f"data/events-{count}.size"

        def make(new):
            new.write_text(script("generate.py", "events", count, self.backslash, self.doubled))

        self.raw = int(once(made, make).read_text())
        self.path = self.backslash
        self.places = {way: shlex.quote(str(getattr(self, way))) for way in ("backslash", "doubled")}

    def says(self):
        packed = self.backslash.stat().st_size / 1e6
        return f"{self.count} events, {self.raw / 1e6:.0f} MB of CSV in {packed:.0f} MB of joined gzip members"

    def source(self, target):
        return script("digest.py", "source", target.name, self.doubled)


class Bench:
    def __init__(self, given):
        self.given = given
        self.headgate = Path(given.headgate or BUILT / "release/headgate").resolve()
        if not self.headgate.is_file():
            sys.exit(f"{self.headgate} is not there: cargo build --release")
        self.temporary, self.out = PLACE / "temporary", PLACE / "out"
        self.broken = []

    def promise(self, is_kept, says):
        print(f"{'kept  ' if is_kept else 'BROKEN'} {says}")
        if not is_kept:
            self.broken.append(says)

    def run(self, name, target, source):
        """One contestant, once. The measurement has `error` if there is nothing to show for it."""
        self.clear()
        out = self.out / f"{name}.{target.name}"
        line = command(
            name, target, **source.places, headgate=shlex.quote(str(self.headgate)), out=shlex.quote(str(out)),
            peer=f"{shlex.quote(str(PYTHON))} {shlex.quote(str(HERE / 'peers.py'))}",
            temporary=shlex.quote(str(self.temporary)),
        )  # fmt: skip
        warm(source.path)
        load = os.getloadavg()[0]
        found = measure(line, str(self.temporary))
        found.update(name=name, target=target.name, count=source.count, raw=source.raw, load=load, at=time.time())
        if found["code"] != 0:
            found["error"] = f"ended with {found['code']}: {found['said']}"
        else:
            found["bytes"] = out.stat().st_size
            shape = "headgate" if name.startswith("headgate") else "peer"
            try:
                found["digest"] = script("digest.py", shape, target.name, out)
            except subprocess.CalledProcessError:
                found["error"] = "its result cannot be read"
        with open(PLACE / "measured.jsonl", "a") as log:
            log.write(json.dumps(found) + "\n")
        self.clear()
        return found

    def clear(self):
        for folder in (self.temporary, self.out):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)

    def compare(self, target, source):
        """All contestants of one target, in turns, `reps` times."""
        truth = source.source(target).strip()
        names = [name for name in contestants(target) if not self.given.only or name in self.given.only.split(",")]
        runs = {name: [] for name in names}
        for _ in range(self.given.reps):
            for name in names:
                found = self.run(name, target, source)
                if "error" not in found and found["digest"] != truth:
                    found["error"] = f"its rows are not those of the input: {found['digest']}\nwanted {truth}"
                if "error" in found:
                    print(f"{target.name} {name}: {found['error']}", file=sys.stderr)
                runs[name].append(found)
        print(f"\n{target.name}: {source.says()}; medians of {self.given.reps}")
        print(f"{'':18}{'wall s':>8}{'CPU s':>8}{'MB/s':>7}{'MB/CPU s':>10}{'peak MiB':>10}{'disk MB':>9}{'out MB':>8}")
        good = {}
        for name, found in runs.items():
            if any("error" in one for one in found):
                print(f"  {name:16} no figure: see above")
                continue
            good[name] = found
            wall, cpu, memory, disk = (median(found, key) for key in ("wall", "cpu", "memory", "disk"))
            print(
                f"  {name:16}{wall:8.2f}{cpu:8.2f}{source.raw / 1e6 / wall:7.0f}{source.raw / 1e6 / cpu:10.0f}"
                f"{memory / MIB:10.1f}{disk / 1e6:9.1f}{median(found, 'bytes') / 1e6:8.1f}"
            )
        self.judge(target, source, good)
        return good

    def judge(self, target, source, good):
        ours = good.get("headgate")
        if ours is None:
            self.promise(False, f"{target.name}: Headgate has no figure")
            return
        for key, goal, what in (("cpu", target.cpu, "MB per CPU second"), ("wall", target.wall, "wall")):
            rivals = {name: median(good[name], key) for name in target.rivals if name in good}
            if not rivals:
                self.promise(False, f"{target.name}: there is nobody to compare {what} with")
                continue
            best = min(rivals, key=rivals.get)
            # Neighbours in time are compared, then the middle one of those ratios is taken.
            ratios = [theirs[key] / mine[key] for theirs, mine in zip(good[best], ours)]
            ratio = statistics.median(ratios)
            span = f"{min(ratios):.2f} to {max(ratios):.2f}"
            self.promise(ratio >= goal, f"{target.name}: {ratio:.2f} x {best} in {what} ({span}; promised {goal})")
        most = max(one["memory"] for one in ours)
        self.promise(
            most <= target.memory, f"{target.name}: at most {most / MIB:.1f} MiB (promised {target.memory / MIB:.0f})"
        )

    def growth(self, targets, large):
        """Peak memory for few and for many."""
        print(f"\npeak memory as the input grows; medians of {self.given.reps}")
        for target in targets:
            few = (Users if target.what == "users" else Events)(self.given.few)
            small = [self.run("headgate", target, few) for _ in range(self.given.reps)]
            if any("error" in one for one in small) or target.name not in large:
                self.promise(False, f"{target.name}: memory has no figure")
                continue
            low, high = median(small, "memory"), median(large[target.name], "memory")
            many = large[target.name][0]["count"]
            says = f"{target.name}: {low / MIB:.1f} MiB for {few.count}, {high / MIB:.1f} for {many}"
            self.promise(high <= low * GROWTH, f"{says} ({high / low:.2f} x; promised {GROWTH})")

    def stream(self, gigabytes):
        """One archive of so many GB unpacked, from a pipe to a pipe: the memory must not know how long it goes on."""
        count = 20_000
        repeat = max(1, round(gigabytes * 1e9 / (count * 2_005)))
        self.clear()
        # It is made while it is read: neither side ever has it whole.
        fifo = self.temporary / "archive"
        os.mkfifo(fifo)
        maker = [PYTHON, HERE / "generate.py", "users", str(count), fifo, "--repeat", str(repeat)]
        maker = subprocess.Popen(maker, stdout=subprocess.PIPE, text=True)
        samples = []
        counted = self.out / "counted"
        line = (
            f"{shlex.quote(str(self.headgate))} convert --vendor braze --dataset audience_members --fields {NARROW} "
            f"--format ndjson --single-file {shlex.quote(str(fifo))} --output - | wc -lc > {shlex.quote(str(counted))}"
        )
        found = measure(line, str(self.temporary), samples=samples)
        if found["code"] != 0:
            maker.kill()
            maker.wait()
            self.promise(False, f"stream: ended with {found['code']}: {found['said']}")
            return
        raw = int(maker.communicate()[0])
        print(f"\nstream: {raw / 1e9:.1f} GB of NDJSON in one ZIP, from a pipe to a pipe")
        lines, size = map(int, counted.read_text().split())
        wanted = count * repeat
        rate = raw / 1e6 / found["wall"]
        print(f"  {found['wall']:.1f} s, {found['cpu']:.1f} CPU s, {rate:.0f} MB/s, {size / 1e9:.1f} GB out")
        tenths = [0] * 10
        for second, memory in samples:
            tenth = min(9, int(second / found["wall"] * 10))
            tenths[tenth] = max(tenths[tenth], memory)
        print("  most MiB in each tenth of the time:", " ".join(f"{most / MIB:.1f}" for most in tenths))
        self.promise(lines == wanted, f"stream: {lines} of {wanted} rows")
        self.promise(found["memory"] <= 64 * MIB, f"stream: at most {found['memory'] / MIB:.1f} MiB (promised 64)")
        # The first tenth holds the start; from then on it is flat.
        first, last = max(tenths[:3]), max(tenths[7:])
        says = f"stream: the end takes {last / first:.2f} x the beginning's memory (promised {GROWTH})"
        self.promise(last <= first * GROWTH, says)
        disk = found["disk"] / 1e6
        self.promise(disk == 0, f"stream: {disk:.1f} MB of temporary disk (promised none)")


def median(runs, key):
    return statistics.median(one[key] for one in runs)


def warm(path):
    """Every contestant finds the input in the page cache."""
    with open(path, "rb") as file:
        while file.read(MIB):
            pass


def main():
    names = [target.name for target in TARGETS]
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--users", type=int, default=1_000_000, help="users of the archive (1000000)")
    arguments.add_argument("--rows", type=int, default=1_000_000, help="raw events (1000000)")
    arguments.add_argument("--reps", type=int, default=5, help="how often each contestant runs (5)")
    arguments.add_argument("--targets", default=",".join(names), help="some of " + ",".join(names))
    arguments.add_argument("--only", help="some contestants")
    arguments.add_argument("--few", type=int, default=0, metavar="COUNT", help="also compare the memory with this many")
    arguments.add_argument("--stream-gb", type=float, metavar="GB", help="only this: an archive of so many GB unpacked")
    arguments.add_argument("--headgate", help="the program (target/release/headgate)")
    arguments.add_argument("--check", action="store_true", help="exit with 1 if a promise is broken")
    given = arguments.parse_args()
    chosen = given.targets.split(",")
    if unknown := set(chosen) - set(names):
        arguments.error(f"there is no target {', '.join(sorted(unknown))}")

    prepare()
    bench = Bench(given)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {time.strftime('%F %T')}")
    print(", ".join((HERE / "requirements.txt").read_text().split("\n")[1:]).strip(", "))
    if given.stream_gb is not None:
        bench.stream(given.stream_gb)
    else:
        targets = [target for target in TARGETS if target.name in chosen]
        sources = {}
        large = {}
        for target in targets:
            if target.what not in sources:
                sources[target.what] = Users(given.users) if target.what == "users" else Events(given.rows)
            good = bench.compare(target, sources[target.what])
            if "headgate" in good:
                large[target.name] = good["headgate"]
        if given.few:
            bench.growth(targets, large)
    if bench.broken:
        print(f"\n{len(bench.broken)} promises are broken")
    return 1 if given.check and bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
