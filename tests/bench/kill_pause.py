#!/usr/bin/python3
"""Killing any one replica under a QD1 write load: how much longer than before does a client wait? (Aim: not 50 ms more.)

Prints the figures for each replica, and a JSON line. As a test it only fails on a stall (2 s): how busy the machine is must not decide it."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import REPLICAS, SCALE, main, require, say, verify  # noqa: E402

STALL_MS = 2000
WINDOW_S = 1.5
ROUNDS = int(os.environ.get("QBD_ROUNDS", "1"))


def longest(buckets, begin_ms, end_ms):
    """In ms, of the requests that completed in that time."""
    return max((us for ms, us in buckets if begin_ms <= ms < end_ms), default=0) / 1000


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = t.load(uri, "--depth", 1, "--connections", 1, "--fixed-len", 4096, "--reads", 0, "--zeroes", 0, "--buckets")
    load.wait_progress(300)
    events = []
    for name in REPLICAS * ROUNDS:
        quiet = time.time()
        time.sleep(WINDOW_S)  # what it is like when nothing happens
        killed = time.time()
        c.kill(name)
        time.sleep(WINDOW_S)
        events.append((name, quiet, killed, time.time()))
        c.restart(name)
        c.wait_up_to_date()
        load.wait_progress(50)
    report = load.finish()
    figures = []
    for name, quiet, killed, end in events:
        ms = [(x - report["begin"]) * 1000 for x in (quiet, killed, end)]
        before, after = longest(report["buckets"], ms[0], ms[1] - 10), longest(report["buckets"], ms[1] - 10, ms[2])
        figures.append({"replica": name, "before_ms": before, "after_ms": after, "more_ms": round(after - before, 3)})
        say(f"{name}: longest wait {before:.1f} ms in the {WINDOW_S} s before its death, {after:.1f} ms in as much after it")
    print(json.dumps({"kill_pause": figures, "median_ms": report["p50_ms"], "p99_ms": report["p99_ms"]}), flush=True)
    require(report["lost"] == 0 and report["errors"] == 0, f"requests were lost: {report['lost']}")
    require(max(f["after_ms"] for f in figures) < STALL_MS * SCALE, "a client's write stalled")
    verify(uri, t.path("model"))


main(scenario)
