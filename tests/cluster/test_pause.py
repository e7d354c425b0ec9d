#!/usr/bin/python3
"""SIGSTOP of any one replica stalls nobody; of two makes requests wait, and they complete when one resumes; nothing is lost.

A stopped process is the worst case of a slow one: its sockets stay open and take what is sent until they are full."""
import time

from qbdtest import REPLICAS, SCALE, main, require, say, verify

STALL_MS = 1500  # what would be a stall, and is not merely this machine being busy


def scenario(t):
    c = t.cluster()
    uri = c.small()
    for name in REPLICAS:
        load = t.load(uri, "--depth", 4, "--max-len", 32768)
        load.wait_progress(100)
        say(f"SIGSTOP {name}")
        c.qbd("pause", name)
        load.wait_progress(1500)
        require(c.component(name)["state"] == "paused", f"{name} was paused")
        report = load.finish()
        require(report["longest_ms"] < STALL_MS * SCALE, f"with {name} stopped a request waited {report['longest_ms']:.0f} ms")
        say(f"{report['writes']} writes, longest wait {report['longest_ms']:.0f} ms")
        c.qbd("resume", name)
        c.wait_up_to_date()

    load = t.load(uri, "--depth", 4)
    load.wait_progress(200)
    say("SIGSTOP replica-1 and replica-3")
    c.qbd("pause", "replica-1")
    c.qbd("pause", "replica-3")
    # What the two had durable before they stopped may still be answered; then nothing may be. More than a lease's time, so that this is crossed too.
    time.sleep(1)
    at = load.acked()
    time.sleep(3.5)
    require(load.acked() == at, f"{load.acked() - at} writes were acknowledged without a majority")
    load.alive()
    say("SIGCONT replica-3")
    c.qbd("resume", "replica-3")
    load.wait_progress(300)
    report = load.finish()
    require(report["longest_ms"] > 3000, "the requests that waited complete")
    require(report["errors"] == 0 and report["lost"] == 0, f"requests failed instead of waiting: {report}")
    c.qbd("resume", "replica-1")
    c.wait_up_to_date()
    verify(uri, t.path("model"))


main(scenario)
