#!/usr/bin/python3
"""A lost disk is a new identity: a wiped replica comes up under its old name, and does not vote. Data directories of others, held ones and unknown ones are refused with the reason."""
import os
import time

from qbdtest import BIN, main, require, run, say, verify


def refusal(c, data, name, *words):
    """A daemon started by hand on that directory ends with status 1 and one line (besides that it waits for a lock)."""
    r = run([os.path.join(BIN, "qbd-replica"), "--config", c.config(), "--dir", data, "--name", name, "--listen", "unix:" + os.path.join(c.dir, "x.sock")],
            check=False, timeout=20)
    lines = [line for line in r.stderr.strip().splitlines() if " info: waiting up to " not in line]
    require(r.returncode == 1, f"{data} as {name}: exit status {r.returncode}, not 1: {r.stderr}")
    require(len(lines) == 1, f"one line was promised: {r.stderr}")
    require(any(w in lines[0] for w in words), f"the reason ({' or '.join(words)}) is missing: {lines[0]}")
    say(f"refused: {lines[0]}")


def data_directories(t, c):
    other = t.cluster("other")
    other.small()
    other.qbd("stop")
    data, others = os.path.join(c.dir, "data", "replica-2"), os.path.join(other.dir, "data", "replica-2")
    refusal(c, data, "replica-2", "lock", "running", "in use", "holds")
    c.kill("replica-2")
    refusal(c, others, "replica-2", "cluster")
    refusal(c, data, "replica-1", "replica-2", "identity")
    damaged = os.path.join(t.dir, "unknown")
    run(["cp", "-r", "--sparse=always", others, damaged])
    with open(os.path.join(damaged, "superblock"), "r+b") as f:
        f.write(bytes(os.path.getsize(f.name)))
    refusal(c, damaged, "replica-2", "superblock", "format", "no qbd")
    os.mkdir(t.path("empty"))
    refusal(c, t.path("empty"), "replica-2", "superblock", "no qbd", "empty", "format")
    c.restart("replica-2")


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = t.load(uri, "--depth", 8, "--rate", 400)
    load.wait_progress(200)
    r = c.qbd("wipe", "replica-2", check=False)
    require(r.returncode == 1 and len(r.stderr.strip().splitlines()) == 1, f"a running replica is not wiped: {r.returncode} {r.stderr}")
    data_directories(t, c)
    c.wait_up_to_date()
    load.wait_progress(100)

    old = c.component("replica-2")["status"]["identity"]
    c.kill("replica-2")
    c.qbd("wipe", "replica-2")
    load.wait_progress(100)
    c.restart("replica-2")
    new = c.component("replica-2")["status"]["identity"]
    require(new != old, "a wiped replica has a new identity")
    require(c.replica("replica-2")["state"] == "not a member: needs rebuild", f"the status says so: {c.replica('replica-2')}")
    require(c.status()["up_to_date"] == 2, "it does not count as a copy")
    load.wait_progress(100)

    c.kill("replica-3")
    # One member of three is left, and one that must not vote.
    time.sleep(1)
    at = load.acked()
    time.sleep(3)
    require(load.acked() == at, f"{load.acked() - at} writes were acknowledged by a replica that lost its data")
    c.restart("replica-3")
    load.wait_progress(200)
    load.finish()
    verify(uri, t.path("model"))
    c.kill("all")
    c.start()
    verify(uri, t.path("model"))
    require(c.replica("replica-2")["state"] == "not a member: needs rebuild", "a restart makes it no member")


main(scenario)
