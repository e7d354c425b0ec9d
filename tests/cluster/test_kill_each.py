#!/usr/bin/python3
"""Each daemon in turn, then all together, is killed with SIGKILL during a write load and restarted at once; every acknowledged byte is there.

A replica's death must not be seen by the client at all: no connection lost, no error."""
from qbdtest import REPLICAS, main, require, say, verify


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = t.load(uri, "--depth", 16, "--rate", 500)
    load.wait_progress(200)
    for name in REPLICAS:
        before = load.connects()
        c.kill(name)
        load.wait_progress(200)
        c.restart(name)
        c.wait_up_to_date()
        load.wait_progress(100)
        require(load.connects() == before, f"the death of {name} cost the client a connection")
    c.kill("nbdserver-1")
    c.restart("nbdserver-1")
    load.wait_progress(200)
    c.kill("all")
    require(c.start() == uri, "the URI changed over a restart")
    load.wait_progress(200)
    report = load.finish()
    say(f"{report['writes']} writes, {report['reads']} reads checked, {report['lost']} requests lost with their connections, longest wait {report['longest_ms']:.0f} ms")
    verify(uri, t.path("model"))
    c.kill("all")
    c.start()
    verify(uri, t.path("model"))
    c.qbd("stop")
    c.start()
    verify(uri, t.path("model"))


main(scenario)
