#!/usr/bin/python3
"""Clients that hang up with requests in flight, and send them again or something else instead, over another connection.

Once the old connection's requests have settled, none of them may take effect any more: not one that waited for a lock, for space or for its turn when its client went (protocol.md P11)."""
from qbdtest import main, require, say, verify


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = t.load(uri, "--depth", 128, "--connections", 8, "--hangup-ms", "60", "--reads", "30", "--max-len", 65536, seconds=10)
    load.process.wait(120)
    report = load.finish()
    require(report["hangups"] > 50, f"it hung up only {report['hangups']} times")
    say(f"{report['writes']} writes and {report['reads']} checked reads over {report['connects']} connections")
    verify(uri, t.path("model"))


main(scenario)
