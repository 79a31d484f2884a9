"""Runs one shell command and measures it with all its descendants."""

import os
import signal
import subprocess
import threading
import time

PAGE = os.sysconf("SC_PAGE_SIZE")
# Memory is looked at every 10 ms, disk at every fifth look.
PAUSE = 0.01
LOOKS_PER_DISK = 5


def family(pid):
    """The process and its living descendants."""
    found, rest = [], [pid]
    while rest:
        pid = rest.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    rest.extend(int(child) for child in children.read().split())
        except OSError:
            pass  # It ended while we looked.
    return found


def resident(pid):
    """Bytes of memory that a process holds."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def on_disk(folder, pids):
    """Bytes in a folder, and in files that have no name any more and are still open."""
    files = {}
    try:
        for entry in os.scandir(folder):
            status = entry.stat()
            files[status.st_dev, status.st_ino] = status.st_blocks * 512
    except OSError:
        pass
    for pid in pids:
        try:
            for number in os.listdir(f"/proc/{pid}/fd"):
                link = f"/proc/{pid}/fd/{number}"
                target = os.readlink(link)
                # Memory that looks like a file is counted as memory.
                if target.endswith(" (deleted)") and not target.startswith(("/memfd:", "/dev/shm/")):
                    status = os.stat(link)
                    files[status.st_dev, status.st_ino] = status.st_blocks * 512
        except OSError:
            pass
    return sum(files.values())


class Watch:
    """The most memory and temporary disk that a process and its descendants hold together."""

    def __init__(self, pid, temporary, samples):
        self.pid, self.temporary, self.samples = pid, temporary, samples
        self.memory = self.disk = 0
        self.began, self.ended = time.perf_counter(), threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.thread.start()

    def look(self):
        number = 0
        while not self.ended.wait(PAUSE):
            pids = family(self.pid)
            memory = sum(map(resident, pids))
            self.memory = max(self.memory, memory)
            if self.samples is not None:
                self.samples.append((time.perf_counter() - self.began, memory))
            if number % LOOKS_PER_DISK == 0:
                self.disk = max(self.disk, on_disk(self.temporary, pids))
            number += 1

    def end(self):
        self.ended.set()
        self.thread.join()


def measure(command, temporary, timeout=3600, samples=None):
    """Runs a line of bash whose temporary files go to the folder `temporary`.

    The answer: `code`, `wall` and `cpu` in seconds (user and system, of every descendant that was waited for), `memory`
    and `disk` at their highest in bytes, `said` for when it failed. `memory` is never less than the largest process's
    own maximum, which the kernel keeps. `samples`, a list, gets (second, bytes of memory) of every look.
    """
    began = time.perf_counter()
    child = subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", command],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "TMPDIR": temporary},
    )
    said = []
    reader = threading.Thread(target=lambda: said.append(child.stdout.read()), daemon=True)
    reader.start()
    watch = Watch(child.pid, temporary, samples)
    killer = threading.Timer(timeout, os.killpg, (child.pid, signal.SIGKILL))
    killer.start()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    killer.cancel()
    watch.end()
    reader.join(2)
    return {
        "code": child.returncode,
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": max(watch.memory, usage.ru_maxrss * 1024),
        "disk": watch.disk,
        "said": b"".join(said).decode(errors="replace")[-2000:],
    }
