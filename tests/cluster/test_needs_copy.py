#!/usr/bin/python3
"""A replica that was away longer than its peers' logs reach back says "behind, needs copy", and does not vote on what it does not hold."""
import os
import time

from qbdtest import MIB, main, require, run, say, verify, wait_until


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--wal-size", "64M", "--extent-size", "128M")
    load = t.load(uri, "--depth", 8, "--rate", 200, "--first", 256 * MIB, "--span", 16 * MIB)
    load.wait_progress(100)
    c.kill("replica-3")
    with open(t.path("bulk"), "wb") as f:
        for _ in range(250):
            f.write(os.urandom(MIB))
    for _ in range(2):
        run(["nbdcopy", "--requests=8", t.path("bulk"), uri])
    c.restart("replica-3")
    wait_until("replica-3 says that it needs a copy", lambda: c.replica("replica-3")["state"] == "behind, needs copy", 40, 0.2)
    require(c.status()["up_to_date"] == 2, "it does not count")
    load.wait_progress(100)
    c.kill("replica-1")
    time.sleep(1)
    at = load.acked()
    time.sleep(3)
    require(load.acked() == at, f"{load.acked() - at} writes were acknowledged with one complete replica")
    say("writes wait")
    c.restart("replica-1")
    load.wait_progress(100)
    load.finish()
    verify(uri, t.path("model"))


main(scenario)
