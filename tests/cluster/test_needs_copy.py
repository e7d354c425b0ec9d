#!/usr/bin/python3
"""A replica that was away longer than its peers' logs reach back copies what changed from them by itself, while the volume serves; until it holds everything it counts for nothing. Then it stands in for a
replica that dies. It transfers no more than twice what changed, counted in chunks of 1 MiB."""
import time

from qbdtest import MIB, main, require, run, say, verify, wait_until


def copied(c, name):
    return c.component(name)["status"]["counters"]["bytes_copied"]


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--wal-size", "64M", "--extent-size", "128M")
    load = t.load(uri, "--depth", 8, "--rate", 200, "--first", 256 * MIB, "--span", 16 * MIB)
    load.wait_progress(100)
    t.write_random(uri, "bulk", 250)
    c.wait_up_to_date()
    c.kill("replica-3")
    # 100 MiB of the 250 change, more than logs of 64 MiB reach back
    t.write_random(uri, "more", 100)
    run(["dd", f"if={t.path('more')}", f"of={t.path('bulk')}", "bs=1M", "conv=notrunc"])
    c.restart("replica-3")
    wait_until("replica-3 copies", lambda: c.replica("replica-3")["state"] in ("needs copy", "copying"), 40, 0.05)
    c.kill("replica-1")
    if c.replica("replica-3")["state"] in ("needs copy", "copying"):
        time.sleep(1)
        at = load.acked()
        time.sleep(0.5)
        if c.replica("replica-3")["state"] != "up to date":
            require(load.acked() == at, f"{load.acked() - at} writes were acknowledged with one complete replica")
            say("writes wait")
    c.restart("replica-1")
    load.wait_progress(100)
    c.wait_up_to_date(3, 120)
    say(f"replica-3 is complete; it copied {copied(c, 'replica-3') / MIB:.1f} MiB")
    require(100 * MIB <= copied(c, "replica-3") <= 2 * (100 + 16) * MIB, "more than twice what changed")
    c.kill("replica-2")
    load.wait_progress(100)
    t.compare(uri, "bulk")
    load.finish()
    verify(uri, t.path("model"))


main(scenario)
