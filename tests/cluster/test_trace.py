#!/usr/bin/python3
"""qbd trace, with real daemons: it adds up, it names the member whose disk is slow and the one that does not answer, and it needs a reply from nobody but the front end."""
import json
import os
import subprocess

from qbdtest import BIN, main, require, run, say, wait_until

QBD = os.path.join(BIN, "qbd")
DELAY_US = 20000


def trace(c, interval_ms=1500, which=None):
    r = run([QBD, "trace", *(which or ["--dir", c.dir]), "--json", "--interval", str(interval_ms)])
    v = json.loads(r.stdout)["volumes"][0]
    return v, {r["name"]: r for r in v["replicas"]}


def check_sums(v, replicas):
    require(v["writes"] > 0 and v["quorum_us"] > 0, f"no sampled write: {v}")
    for name, r in replicas.items():
        if r["acks"] == 0:
            continue
        own = sum(r[k] for k in ("receive_us", "wait_us", "disk_us", "answer_us"))
        # The samples of the two ends are the same but for those that one look separates.
        require(own <= r["ack_us"] * 2 + 5000, f"{name}: parts of {own} us in {r['ack_us']} us")
    require(abs(sum(r["decided"] for r in replicas.values()) - v["writes"]) <= 1, f"every write is decided by one replica: {v}")


def with_slow_log(t, c, name):
    """The replica again, with a log that answers late."""
    with open(f"/proc/{c.pid(name)}/cmdline") as f:
        argv = f.read().split("\0")[:-1]
    c.kill(name)
    with open(os.path.join(c.dir, "logs", name + ".log"), "a") as log:
        return t.popen([*argv, "--inject", f"wal-delay={DELAY_US}us"], stdout=log, stderr=log)


def scenario(t):
    c = t.cluster()
    load = t.load(c.small(), "--depth", 8, "--max-len", 4096)
    load.wait_progress(2000)
    v, replicas = trace(c)
    check_sums(v, replicas)
    require(len(replicas) == 3 and all(r["acks"] > 0 and r["disk_us"] > 0 for r in replicas.values()), f"three replicas acknowledge: {replicas}")
    say(f"{v['writes']} sampled writes, {v['quorum_us']:.0f} us to a majority")
    text = run([QBD, "trace", "--dir", c.dir, "--count", "1", "--interval", "500"]).stdout
    require("replica-2" in text and "sampled writes" in text, f"for people: {text}")

    # qbd local does not know a daemon that it did not start: asked as any cluster is, by its configuration.
    which = ["--cluster", c.config(), "--frontend", f"unix:{c.dir}/run/nbdserver-1.status"]
    slow = with_slow_log(t, c, "replica-2")
    wait_until("acknowledgements of the replica that came back", lambda: trace(c, 200, which)[1]["replica-2"]["acks"] > 0)
    load.wait_progress(2000)
    v, replicas = trace(c, which=which)
    check_sums(v, replicas)
    r = replicas["replica-2"]
    require(r["acks"] > 0 and r["disk_us"] >= DELAY_US and r["ack_us"] >= DELAY_US, f"replica-2's log answers late: {r}")
    require(max(replicas[n]["disk_us"] for n in ("replica-1", "replica-3")) < r["disk_us"], f"the others' do not: {replicas}")
    require(r["decided"] * 2 <= v["writes"] and v["quorum_us"] < r["ack_us"], f"nobody waits for it: {v}")
    say(f"slow log: {r['disk_us']:.0f} us there, {v['quorum_us']:.0f} us to a majority")

    slow.kill()
    slow.wait()
    load.wait_progress(2000)
    v, replicas = trace(c)
    check_sums(v, replicas)
    r = replicas["replica-2"]
    require(r["acks"] == 0 and r["decided"] == 0 and r["disk_us"] is None and r["ack_us"] is None, f"it is not there: {r}")
    load.finish()

    wrong = subprocess.run([QBD, "trace", "--dir", c.dir, "--count", "1", "--interval", "10", "no-such-volume"], capture_output=True, text=True)
    require(wrong.returncode == 1, "a volume that is not there is no success")
    for bad in (["--interval", "0"], ["--count", "x"], ["--count", "-1"], ["a", "b"]):
        r = subprocess.run([QBD, "trace", "--dir", c.dir, *bad], capture_output=True, text=True)
        require(r.returncode == 1 and r.stderr, f"{bad}: {r}")


main(scenario)
