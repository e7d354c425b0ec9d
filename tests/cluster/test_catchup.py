#!/usr/bin/python3
"""A replica that was down during 100 MiB of writes catches up from its peers, and then serves with another one down."""
from qbdtest import MIB, main, require, say, verify

BULK = 100 * MIB


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--extent-size", "128M")  # logs as in a real one: they reach back far enough
    load = t.load(uri, "--depth", 8, "--rate", 200, "--first", 256 * MIB, "--span", 32 * MIB)
    load.wait_progress(200)
    c.kill("replica-3")
    say(f"writing {BULK // MIB} MiB without replica-3")
    t.write_random(uri, "bulk", BULK // MIB)
    behind = c.status()
    require(behind["up_to_date"] == 2, f"two replicas are up to date: {behind}")
    c.restart("replica-3")
    c.wait_up_to_date(3, 90)
    say("replica-3 caught up")
    c.kill("replica-1")
    load.wait_progress(300)
    load.finish()
    t.compare(uri, "bulk")
    say(f"{BULK // MIB} MiB compare equal from replica-2 and replica-3")
    verify(uri, t.path("model"))
    c.kill("all")
    c.start()
    c.wait_up_to_date()
    c.kill("replica-2")
    verify(uri, t.path("model"))


main(scenario)
