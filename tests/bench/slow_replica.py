#!/usr/bin/python3
"""What writes notice of ONE slow replica of three: stopped by SIGSTOP, or with a log that takes 50 times as long (qbd-replica --inject wal-slow=50). Aim: p50, p99 and throughput within 1.2 times of before.

Before and after alternate, QBD_TURNS (3) times QBD_SECONDS (8) each; QD1 and QD32 of 4 KiB random writes by qbd bench. The stopped replica is let go on and is up to date again before the next turn begins. Prints the figures and
a JSON line. As a test it only fails when requests are lost or stall (2 s): how busy the machine is must not decide it."""
import json
import os
import signal
import statistics
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import BIN, SCALE, fio, main, require, run, say, wait_until  # noqa: E402

SECONDS = float(os.environ.get("QBD_SECONDS", "8"))
TURNS = int(os.environ.get("QBD_TURNS", "3"))
SLOWNESS = os.environ.get("QBD_INJECT", "wal-slow=50")
SLOW = "replica-3"
STALL_US = 2e6


def wait_up_to_date(c):
    """By the daemons' own words: qbd local does not know the one that was started by hand."""
    def all_are():
        r = run([os.path.join(BIN, "qbd"), "status", "--cluster", c.config(), "--json"])
        return json.loads(r.stdout)["volumes"][0]["up_to_date"] == 3
    wait_until("all replicas are up to date", all_are, 120, 0.1)


def bench(uri, depth):
    r = json.loads(run([os.path.join(BIN, "qbd"), "bench", uri, "--workload", "write", "--overwrite", "--json", "--quiet", "--depth", str(depth), "--runtime", str(SECONDS)],
                       timeout=SECONDS + 60).stdout)
    w = r["write"]
    require(r["lost"] == 0 and r["unanswered"] == 0, f"requests were lost: {r['lost']}")
    require(w["latency_us"]["max"] < STALL_US * SCALE, f"a write took {w['latency_us']['max'] / 1e6:.1f} s")
    return {"iops": w["iops"], **{k: w["latency_us"][k] for k in ("mean", "p50", "p99", "p99.9", "max")}}


class Stopped:
    name = "stopped by SIGSTOP"

    def __init__(self, c):
        self.c = c

    def begin(self):
        self.c.qbd("pause", SLOW)

    def end(self):
        self.c.qbd("resume", SLOW)

    def close(self):
        pass


class SlowLog:
    """The same daemon, started again by hand with --inject, and switched by SIGUSR1."""

    name = f"log slowed ({SLOWNESS})"

    def __init__(self, t, c):
        self.c = c
        with open(f"/proc/{c.pid(SLOW)}/cmdline", "rb") as f:
            argv = [a.decode() for a in f.read().split(b"\0")[:-1]]
        c.kill(SLOW)
        self.log = t.path("slow.log")
        with open(self.log, "a") as f:
            self.process = t.popen([*argv, "--inject", SLOWNESS], cwd=c.dir, stderr=f, stdout=f)
        wait_up_to_date(c)
        self.slow = True
        self.end()

    def switch(self, on, says):
        if self.slow != on:
            self.process.send_signal(signal.SIGUSR1)
            self.slow = on

            def said():
                with open(self.log) as f:
                    return [line for line in f.read().splitlines() if "--inject: the log's writes are" in line][-1].endswith(says)
            wait_until(f"its log is {says}", said)

    def begin(self):
        self.switch(True, "slow from now on")

    def end(self):
        self.switch(False, "no longer slow")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.c.restart(SLOW)


def median(turns):
    return {k: statistics.median(x[k] for x in turns) for k in turns[0]}


def measure(c, uri, trouble, depth):
    before, after = [], []
    for _ in range(TURNS):
        before.append(bench(uri, depth))
        trouble.begin()
        after.append(bench(uri, depth))
        trouble.end()
        wait_up_to_date(c)
    b, a = median(before), median(after)
    ratios = {k: a[k] / b[k] if b[k] else 0 for k in b}
    say(f"{trouble.name}, QD{depth}: p50 {b['p50']:.0f} -> {a['p50']:.0f} us ({ratios['p50']:.2f}), p99 {b['p99']:.0f} -> {a['p99']:.0f} us ({ratios['p99']:.2f}), "
        f"{b['iops']:.0f} -> {a['iops']:.0f} /s ({ratios['iops']:.2f}), longest {b['max'] / 1000:.1f} -> {a['max'] / 1000:.1f} ms")
    return {"before": b, "after": a, "ratios": ratios, "turns": {"before": before, "after": after}}


def fill(uri, t):
    """Nothing grows any more while it is measured."""
    run(fio(uri, "fill", "--rw=write", "--bs=1M", "--iodepth=8", "--randrepeat=0", "--refill_buffers", "--size=512M"), cwd=t.dir, timeout=300)


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--wal-size", "1G")
    fill(uri, t)
    figures = {}
    for make in (lambda: Stopped(c), lambda: SlowLog(t, c)):
        trouble = make()
        try:
            for depth in (1, 32):
                figures[f"{trouble.name}, QD{depth}"] = measure(c, uri, trouble, depth)
        finally:
            trouble.close()
    print(json.dumps({"slow_replica": figures}), flush=True)


if __name__ == "__main__":
    main(scenario)
