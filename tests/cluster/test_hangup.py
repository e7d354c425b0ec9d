#!/usr/bin/python3
"""Clients that hang up with requests in flight and send them again over another connection: no request of the old connection may take effect after its successor was answered."""
from qbdtest import main, require, say, verify


def scenario(t):
    c = t.cluster()
    uri = c.small()
    load = t.load(uri, "--depth", 32, "--connections", 4, "--hangup-ms", "30", "--reads", "30", "--span", 16 << 20, seconds=8)
    load.process.wait(120)
    report = load.finish()
    require(report["hangups"] > 50, f"it hung up only {report['hangups']} times")
    say(f"{report['writes']} writes and {report['reads']} checked reads over {report['connects']} connections")
    verify(uri, t.path("model"))


main(scenario)
