"""One measurement: fio (or qbd bench) against one server, and what the server's processes and the disk did meanwhile."""
import json
import os
import platform
import re
import statistics
import subprocess
import time

from compare_servers import call

TICKS = os.sysconf("SC_CLK_TCK")
PERCENTILES = {"p50": "50.000000", "p99": "99.000000", "p99.9": "99.900000"}


class Row:
    """One row of the table. `flushed`: what fio is told for servers whose answer alone is not durable; `tool`: connections and depth of the run of qbd bench that measures write and flush together."""

    def __init__(self, title, rw, bs, depth, jobs=1, extra=(), flushed=None, buffered=(), tool=None, volumes=1):
        self.title, self.rw, self.bs, self.depth, self.jobs = title, rw, bs, depth, jobs
        self.extra, self.flushed, self.buffered, self.tool, self.volumes = list(extra), flushed, list(buffered), tool, volumes
        self.writes, self.reads = "write" in rw or "rw" in rw, "read" in rw or rw in ("rw", "randrw")

    def options(self, server):
        flushed = self.flushed if server.flush and self.flushed else []
        return self.extra + flushed + (self.buffered if server.buffered else [])


SPREAD = ["--fsync=1", "--numjobs=16", "--iodepth=2"]  # an fsync holds back its own job only
ROWS = {
    "w1": Row("4k random write, QD1", "randwrite", "4k", 1, flushed=["--fsync=1"], tool=(1, 1)),
    "w32": Row("4k random write, QD32", "randwrite", "4k", 32, flushed=SPREAD, tool=(16, 2)),
    "mixed": Row("4k random 70/30, QD32", "randrw", "4k", 32, extra=["--rwmixread=70"], flushed=SPREAD),
    "r1": Row("4k random read, QD1", "randread", "4k", 1),
    "r32": Row("4k random read, QD32", "randread", "4k", 32),
    "sw": Row("1 MiB sequential write, QD8", "write", "1m", 8, buffered=["--fsync=8"]),
    "sr": Row("1 MiB sequential read, QD8", "read", "1m", 8),
    "w4c": Row("4k random write, 4 connections, QD8 each", "randwrite", "4k", 8, jobs=4, flushed=["--fsync=1"]),
    "r4c": Row("4k random read, 4 connections, QD8 each", "randread", "4k", 8, jobs=4),
    "w4v": Row("4k random write, 4 volumes, QD8 each", "randwrite", "4k", 8, flushed=["--fsync=1"], volumes=4),
}


# ---- what processes and the disk did ----

def process_cost(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    switches = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/status") as f:
                switches += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
        except FileNotFoundError:
            pass  # a worker that ended
    with open(f"/proc/{pid}/io") as f:
        io = {k: int(v) for k, v in (line.split(": ") for line in f)}
    with open(f"/proc/{pid}/status") as f:
        status = dict(line.split(":", 1) for line in f)
    return {"cpu_s": (int(fields[11]) + int(fields[12])) / TICKS, "switches": switches, "write_bytes": io["write_bytes"], "read_bytes": io["read_bytes"],
            "rss_bytes": int(status["VmRSS"].split()[0]) * 1024, "rss_peak_bytes": int(status["VmHWM"].split()[0]) * 1024}


def disk_of(path):
    """The whole disk's directory in /sys, or None (overlay, tmpfs)."""
    dev = os.stat(path).st_dev
    at = os.path.realpath(f"/sys/dev/block/{os.major(dev)}:{os.minor(dev)}")
    if os.path.exists(os.path.join(at, "partition")):
        at = os.path.dirname(at)
    return at if os.path.exists(os.path.join(at, "stat")) else None


def disk_cost(disk):
    """Of the whole disk, whoever used it."""
    if not disk:
        return {}
    with open(os.path.join(disk, "stat")) as f:
        x = [int(n) for n in f.read().split()]
    return {"disk_writes": x[4], "disk_write_bytes": x[6] * 512, "disk_flushes": x[15] if len(x) > 15 else 0}


class Meter:
    """Differences over a time, per process and of the disk, and the server's own counters."""

    def __init__(self, server, disk):
        self.server, self.disk = server, disk
        self.before = self.take()

    def take(self):
        return {n: process_cost(p) for n, p in self.server.pids().items()}, disk_cost(self.disk), self.server.counters()

    def read(self):
        processes, disk, counters = self.take()
        was_processes, was_disk, was_counters = self.before
        grown = ("cpu_s", "switches", "write_bytes", "read_bytes")
        return {"processes": {n: {k: v - was_processes.get(n, {}).get(k, 0) if k in grown else v for k, v in c.items()} for n, c in processes.items()},
                "disk": {k: v - was_disk[k] for k, v in disk.items()},
                "counters": {r: {k: v - was_counters.get(r, {}).get(k, 0) for k, v in c.items() if k.endswith("_total")} for r, c in counters.items()}}


# ---- fio, and qbd bench for what fio cannot tell ----

def latency(side):
    lat, clat = side["lat_ns"], side["clat_ns"]
    got = {"mean": lat["mean"] / 1000, "max": lat["max"] / 1000}
    got.update({k: clat.get("percentile", {}).get(v, 0) / 1000 for k, v in PERCENTILES.items()})
    return got


def sync_latency(job):
    lat = job.get("sync", {}).get("lat_ns", {})
    if not lat.get("N", 0) and not job.get("sync", {}).get("total_ios"):
        return None
    return {"mean": lat["mean"] / 1000, "max": lat["max"] / 1000, **{k: lat.get("percentile", {}).get(v, 0) / 1000 for k, v in PERCENTILES.items()}}


def fio(server, row, runtime, size):
    uris = server.volumes() if row.volumes > 1 else [server.uri]
    size = server.volume_size if row.volumes > 1 else size
    argv = ["fio", "--name=global", "--ioengine=nbd", f"--rw={row.rw}", f"--bs={row.bs}", f"--iodepth={row.depth}", f"--numjobs={row.jobs}", f"--size={size}", "--time_based",
            f"--runtime={int(runtime * 1000)}ms", "--randrepeat=0", "--norandommap", "--group_reporting", "--output-format=json", *row.options(server)]
    for i, uri in enumerate(uris):
        argv += [f"--name=job{i}", f"--uri={uri}"]
    out = call(argv)
    job = json.loads(out[out.index("{"):])["jobs"][0]
    if job["error"]:
        raise SystemExit(f"fio against {server.name}: error {job['error']}")
    got = {"iops": 0, "mib_s": 0, "ops": 0, "write_payload_bytes": job["write"]["io_bytes"]}
    for side in ("read", "write"):
        if job[side]["total_ios"]:
            got[side] = {"iops": job[side]["iops"], "mib_s": job[side]["bw_bytes"] / 2**20, "latency_us": latency(job[side])}
            got["iops"] += job[side]["iops"]
            got["mib_s"] += job[side]["bw_bytes"] / 2**20
            got["ops"] += job[side]["total_ios"]
    sync = sync_latency(job)
    if sync:
        got["flush_latency_us"] = sync
    return got


def durable_write(server, row, runtime, qbd):
    """Latency of a 4 KiB write until it is durable, the flush included where one is needed."""
    connections, depth = row.tool if server.flush else (1, row.tool[0] * row.tool[1])
    out = call([qbd, "bench", server.uri, "--workload", "write", "--overwrite", "--json", "--quiet", "--runtime", str(runtime), "--connections", str(connections), "--depth", str(depth),
                *(["--flush"] if server.flush else [])])
    w = json.loads(out)["write"]
    return {"iops": w["iops"], "bytes": w["bytes"], "latency_us": w["latency_us"]}


def one_turn(server, row, a, disk):
    meter = Meter(server, disk)
    got = fio(server, row, a.runtime, a.size)
    cost = meter.read()
    n = max(1, got["ops"])
    got["cpu_us_per_op"] = sum(p["cpu_s"] for p in cost["processes"].values()) / n * 1e6
    got["switches_per_op"] = sum(p["switches"] for p in cost["processes"].values()) / n
    got["disk_flushes_per_op"] = cost["disk"].get("disk_flushes", 0) / n
    got["disk_writes_per_op"] = cost["disk"].get("disk_writes", 0) / n
    got["cost"] = cost
    if cost["counters"]:
        got["log_writes_per_op"] = max(c["wal_batches_total"] for c in cost["counters"].values()) / n
    if row.tool:
        got["durable_write"] = durable_write(server, row, a.runtime, a.qbd)
        got["write_payload_bytes"] += got["durable_write"]["bytes"]
    return got


def fill(server, size, uris):
    for uri in uris:
        call(["fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", "--rw=write", "--bs=1m", "--iodepth=8", f"--size={size}", "--randrepeat=0", "--refill_buffers", "--end_fsync=1"])


def median_of(turns):
    """Of dictionaries of numbers of the same shape; what not all of them have is left out."""
    got = {}
    for k, v in turns[0].items():
        if any(k not in t for t in turns):
            continue
        if isinstance(v, dict):
            got[k] = median_of([t[k] for t in turns])
        elif isinstance(v, (int, float)):
            got[k] = statistics.median(t[k] for t in turns)
    return got


def per_replica(cost, payload):
    """Bytes to disk per byte of payload over a whole row, what was written back later included."""
    got = {}
    for name, c in cost["counters"].items():
        got[name] = {"write_bytes_per_payload_byte": cost["processes"][name]["write_bytes"] / payload, "log_bytes_per_payload_byte": c["wal_written_bytes_total"] / payload,
                     "write_back_bytes_per_payload_byte": c["write_back_bytes_total"] / payload, "log_writes": c["wal_batches_total"], "checkpoints": c["checkpoints_total"]}
    return got


def measure_row(servers, row, a, disk, say):
    """All turns of one row, A B C A B C."""
    if row.volumes > 1:
        for s in servers:
            fill(s, s.volume_size, s.volumes())
    meters = {}
    for s in servers:
        s.settle()
    for s in servers:
        if row.writes:
            meters[s.key] = Meter(s, disk)
    turns = {s.key: [] for s in servers}
    for i in range(a.turns):
        for s in servers:
            turns[s.key].append(one_turn(s, row, a, disk))
            if row.writes:
                s.settle()
            say(f"  {row.title}: turn {i + 1}, {s.name}: {turns[s.key][-1]['iops']:.0f} /s")
    got = {}
    for s in servers:
        got[s.key] = {"median": median_of(turns[s.key]), "turns": turns[s.key]}
        payload = sum(t["write_payload_bytes"] for t in turns[s.key])
        if s.key in meters and payload:
            cost = meters[s.key].read()
            got[s.key]["bytes_per_payload_byte"] = sum(p["write_bytes"] for p in cost["processes"].values()) / payload
            got[s.key]["replicas"] = per_replica(cost, payload)
    return got


# ---- where it was measured ----

def read_line(path, default="?"):
    try:
        with open(path) as f:
            return f.readline().strip()
    except OSError:
        return default


def first_line(argv):
    try:
        r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return r.stdout.splitlines()[0].strip() if r.stdout else "?"
    except FileNotFoundError:
        return None


def conditions(a, base, disk, left_out):
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), "?")
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) * 1024
    here = os.path.dirname(os.path.abspath(__file__))
    git = ["git", "-C", here]
    queue = os.path.join(disk, "queue") if disk else ""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "command": a.command,
        "commit": first_line([*git, "rev-parse", "HEAD"]) or "?", "changed_since": first_line([*git, "status", "--porcelain", "-uno"]) not in ("?", None),
        "kernel": platform.release(), "cpus": os.cpu_count(), "cpu": model, "memory_bytes": memory,
        "file_system": call(["df", "--output=fstype", base]).split()[-1],
        "disk": {"name": os.path.basename(disk), "rotational": read_line(os.path.join(queue, "rotational")), "write_cache": read_line(os.path.join(queue, "write_cache")),
                 "scheduler": (re.findall(r"\[(.*?)\]", read_line(os.path.join(queue, "scheduler"))) or ["?"])[0]} if disk else None,
        "versions": {"fio": first_line(["fio", "--version"]), "qemu-nbd": first_line(["qemu-nbd", "--version"]), "nbdkit": first_line(["nbdkit", "--version"]), "glusterfs": first_line(["glusterd", "--version"]), "ceph": first_line(["ceph-osd", "--version"])},
        "runtime_s": a.runtime, "turns": a.turns, "size": a.size,
        "not_measured": left_out,
    }
