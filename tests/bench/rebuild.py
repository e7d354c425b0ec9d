#!/usr/bin/python3
"""How fast a lost disk is rebuilt, beside a plain checksummed copy of as many bytes between two processes over loopback TCP to the same disk, in one run; and what a QD1 writer notices.

QBD_GIB: how much data (2). QBD_COPIES: how often each is done (3). QBD_FRAGMENTED=1: only every second 4 KiB block is written. Prints the figures and a JSON line."""
import glob
import json
import os
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import BIN, MIB, main, require, run, say  # noqa: E402

GIB = float(os.environ.get("QBD_GIB", "2"))
FRAGMENTED = os.environ.get("QBD_FRAGMENTED") == "1"
COPIES = int(os.environ.get("QBD_COPIES", "3"))
LATENCY_S = 10


def fill(t, uri, n):
    """n bytes from the volume's start, or every second block of them."""
    how = ["--rw=write:4k", "--bs=4k", "--iodepth=64", f"--io_size={n // 2}"] if FRAGMENTED else ["--rw=write", "--bs=1M", "--iodepth=16"]
    run(["fio", "--name=fill", "--ioengine=nbd", f"--uri={uri}", f"--size={n}", *how], timeout=3600, cwd=t.dir)


def latencies(t, uri, seconds, name):
    """p50 and p99 of a QD1 writer of 4 KiB, in ms."""
    out = t.path(name)
    run(["fio", "--name=qd1", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", "--iodepth=1", "--offset=0", "--size=64M", "--time_based", f"--runtime={seconds}",
         "--output-format=json", f"--output={out}"], timeout=seconds + 60, cwd=t.dir)
    with open(out) as f:
        w = json.load(f)["jobs"][0]["write"]["clat_ns"]["percentile"]
    return w["50.000000"] / 1e6, w["99.000000"] / 1e6


def rebuild(t, c, during=None):
    """Seconds from the command's start to its end, and what `during` returned."""
    c.kill("replica-3")
    c.qbd("wipe", "replica-3")
    c.restart("replica-3")
    begin = time.monotonic()
    p = t.popen([os.path.join(BIN, "qbd"), "rebuild", "--dir", c.dir, "--lost", "replica-3"], stdout=subprocess.DEVNULL)
    got = during() if during else None
    require(p.wait() == 0, "the rebuild failed")
    seconds = time.monotonic() - begin
    c.wait_up_to_date(3)
    return seconds, got


def scenario(t):
    plain = os.path.join(BIN, "plain_copy")
    n = int(GIB * 1024) * MIB
    c = t.cluster()
    uri = c.start("--size", f"{int(GIB * 1024) + 128}M", "--wal-size", "1G", "--extent-size", "1G")
    say(f"writing {n // MIB} MiB{', every second block' if FRAGMENTED else ''}")
    fill(t, uri, n)
    data = n // 2 if FRAGMENTED else n
    time.sleep(10)  # checkpoints of what was written come to their end
    extents = sorted(glob.glob(os.path.join(c.dir, "data", "replica-1", "extents", "*")))[:max(1, data >> 30)]
    rates = {"plain": [], "rebuild": []}
    for k in range(COPIES):
        r = json.loads(run([plain, t.path("copy"), *extents], timeout=3600).stdout)
        os.unlink(t.path("copy"))
        rates["plain"].append(r["bytes"] / r["seconds"] / MIB)
        seconds, _ = rebuild(t, c)
        rates["rebuild"].append(data / seconds / MIB)
        say(f"plain copy {rates['plain'][-1]:.0f} MiB/s, rebuild {rates['rebuild'][-1]:.0f} MiB/s")
    quiet = latencies(t, uri, LATENCY_S, "quiet")
    _, busy = rebuild(t, c, lambda: latencies(t, uri, LATENCY_S, "busy"))
    say(f"QD1 write p99: {quiet[1]:.2f} ms quiet, {busy[1]:.2f} ms while rebuilding")
    median = {k: sorted(v)[len(v) // 2] for k, v in rates.items()}
    print(json.dumps({"rebuild_bench": {"gib": GIB, "fragmented": FRAGMENTED, "plain_mib_s": rates["plain"], "rebuild_mib_s": rates["rebuild"],
                                        "ratio": round(median["rebuild"] / median["plain"], 3), "qd1_p50_ms": [quiet[0], busy[0]], "qd1_p99_ms": [quiet[1], busy[1]],
                                        "p99_ratio": round(busy[1] / quiet[1], 2)}}), flush=True)


main(scenario)
