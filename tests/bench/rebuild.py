#!/usr/bin/python3
"""How fast a lost disk is rebuilt, beside a plain checksummed copy of as many bytes between two processes over loopback TCP to the same disk, in one run; and what a QD1 writer notices.

QBD_GIB: how much data (2). QBD_COPIES: how often copy and rebuild are done, idle and in turns (3). QBD_ROUNDS: how often the writer is measured, without and with a rebuild in turns (1).
QBD_LATENCY_S: how long each time (10). QBD_DEGRADED=1: also with one replica dead and no rebuild. QBD_FRAGMENTED=1: only every second 4 KiB block is written.
Prints each measurement, medians, the worst, and a JSON line."""
import glob
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import BIN, MIB, fio, main, require, run, say  # noqa: E402

GIB = float(os.environ.get("QBD_GIB", "2"))
FRAGMENTED = os.environ.get("QBD_FRAGMENTED") == "1"
COPIES = int(os.environ.get("QBD_COPIES", "3"))
ROUNDS = int(os.environ.get("QBD_ROUNDS", "1"))
LATENCY_S = int(os.environ.get("QBD_LATENCY_S", "10"))
DEGRADED = os.environ.get("QBD_DEGRADED") == "1"


def settle():
    """What was deleted is gone from the disk as well: a file system that discards does it with a later commit of its journal, and everybody waits for that."""
    os.sync()
    time.sleep(2)


def fill(t, uri, n):
    """n bytes from the volume's start, or every second block of them."""
    how = ["--rw=write:4k", "--bs=4k", "--iodepth=64", f"--io_size={n // 2}"] if FRAGMENTED else ["--rw=write", "--bs=1M", "--iodepth=16"]
    run(fio(uri, "fill", f"--size={n}", *how), timeout=3600, cwd=t.dir)


def latencies(t, uri, name):
    """p50 and p99 of a QD1 writer of 4 KiB, in ms."""
    out = t.path(name)
    run(fio(uri, "qd1", "--rw=randwrite", "--bs=4k", "--iodepth=1", "--offset=0", "--size=64M", "--time_based", f"--runtime={LATENCY_S}",
            "--output-format=json", f"--output={out}"), timeout=LATENCY_S + 60, cwd=t.dir)
    with open(out) as f:
        text = f.read()
    w = json.loads(text[text.index("{"):])["jobs"][0]["write"]["clat_ns"]["percentile"]  # with --thread a line of the nbd engine comes first
    return round(w["50.000000"] / 1e6, 3), round(w["99.000000"] / 1e6, 3)


def lose(c):
    c.kill("replica-3")
    c.qbd("wipe", "replica-3")
    c.restart("replica-3")
    settle()


def rebuild(t, c, during=None):
    """Seconds from the command's start to its end, and what `during` returned."""
    begin = time.monotonic()
    p = t.popen([os.path.join(BIN, "qbd"), "rebuild", "--dir", c.dir, "--lost", "replica-3"], stdout=subprocess.DEVNULL)
    got = during() if during else None
    require(not during or p.poll() is None, "the rebuild was over before the writer was: more data is needed")
    require(p.wait() == 0, "the rebuild failed")
    seconds = time.monotonic() - begin
    c.wait_up_to_date(3)
    return seconds, got


def median(values):
    return sorted(values)[len(values) // 2] if values else None


def measure_rates(t, c, data):
    rates = {"plain": [], "rebuild": []}
    extents = sorted(glob.glob(os.path.join(c.dir, "data", "replica-1", "extents", "*")))[:max(1, data >> 30)]
    for _ in range(COPIES):
        r = json.loads(run([os.path.join(BIN, "plain_copy"), t.path("copy"), *extents], timeout=3600).stdout)
        os.unlink(t.path("copy"))
        rates["plain"].append(round(r["bytes"] / r["seconds"] / MIB))
        lose(c)
        seconds, _ = rebuild(t, c)
        rates["rebuild"].append(round(data / seconds / MIB))
        say(f"plain copy {rates['plain'][-1]} MiB/s, rebuild {rates['rebuild'][-1]} MiB/s")
    return rates


def measure_latencies(t, c, uri):
    """Of each round: (p50, p99) without a rebuild, with one, and degraded."""
    rounds = []
    for k in range(ROUNDS):
        settle()
        quiet = latencies(t, uri, "quiet")
        lose(c)
        degraded = latencies(t, uri, "degraded") if DEGRADED else None
        _, busy = rebuild(t, c, lambda: latencies(t, uri, "busy"))
        rounds.append((quiet, busy, degraded))
        say(f"QD1 write p50/p99: {quiet[0]:.2f}/{quiet[1]:.2f} ms without, {busy[0]:.2f}/{busy[1]:.2f} ms while rebuilding: {busy[1] / quiet[1]:.2f} times"
            + (f"; {degraded[0]:.2f}/{degraded[1]:.2f} ms with two replicas" if degraded else ""))
    return rounds


def scenario(t):
    n = int(GIB * 1024) * MIB
    c = t.cluster()
    uri = c.start("--size", f"{int(GIB * 1024) + 128}M", "--wal-size", "1G", "--extent-size", "1G")
    say(f"writing {n // MIB} MiB{', every second block' if FRAGMENTED else ''}")
    fill(t, uri, n)
    data = n // 2 if FRAGMENTED else n
    time.sleep(10)  # checkpoints of what was written come to their end
    rates = measure_rates(t, c, data)
    rounds = measure_latencies(t, c, uri)
    ratios = [round(busy[1] / quiet[1], 2) for quiet, busy, _ in rounds]
    result = {"gib": GIB, "fragmented": FRAGMENTED, "plain_mib_s": rates["plain"], "rebuild_mib_s": rates["rebuild"],
              "ratio": round(median(rates["rebuild"]) / median(rates["plain"]), 3) if COPIES else None,
              "qd1_p50_ms": [[quiet[0], busy[0]] for quiet, busy, _ in rounds], "qd1_p99_ms": [[quiet[1], busy[1]] for quiet, busy, _ in rounds],
              "p99_ratios": ratios, "p99_ratio_median": median(ratios), "p99_ratio_worst": max(ratios, default=None)}
    if DEGRADED:
        result["degraded_p99_ms"] = [d[1] for _, _, d in rounds]
    print(json.dumps({"rebuild_bench": result}), flush=True)


main(scenario)
