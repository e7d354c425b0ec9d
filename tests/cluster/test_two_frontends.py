#!/usr/bin/python3
"""One writer at a time: a second front end is refused with the holder's name while the first lives, takes over when it is killed, and also when it merely stops.

A front end that was replaced and wakes up again must not get a single one of its old requests through."""
import os
import time

from qbdtest import main, nbd_go, require, say, socket_path, verify, wait_until


def refused_for(c, path, holder):
    good, words = nbd_go(path, "vol0")
    require(not good, "a second front end served the volume while the first lived")
    require(holder in words, f"the refusal does not name the holder {holder}: {words}")
    say(f"refused: {words}")


def scenario(t):
    c = t.cluster()
    uri1 = c.small()
    r = c.qbd("add", "nbdserver")
    require(r.stdout.strip() == "nbdserver-2", f"add prints the name: {r.stdout}")
    path1 = socket_path(uri1)
    path2 = path1.replace("nbdserver-1", "nbdserver-2")
    uri2 = uri1.replace("nbdserver-1", "nbdserver-2")
    require(os.path.exists(path2), f"{path2} is there")
    refused_for(c, path2, "nbdserver-1")
    require(c.status()["holder"] == "nbdserver-1", "the status tells the holder")

    load = t.load(uri1, "--depth", 16, "--drain-s", "0")
    load.wait_progress(300)
    c.kill("nbdserver-1")
    load.finish()
    began = time.monotonic()
    wait_until("nbdserver-2 takes over", lambda: nbd_go(path2, "vol0")[0], 30)
    say(f"nbdserver-2 took over after {time.monotonic() - began:.1f} s")
    verify(uri2, t.path("model"))
    load = t.load(uri2, "--depth", 16)
    load.wait_progress(200)
    c.restart("nbdserver-1")
    wait_until("nbdserver-1 learns who holds the volume", lambda: "nbdserver-2" in nbd_go(path1, "vol0")[1], 30)
    refused_for(c, path1, "nbdserver-2")
    require(c.qbd("uri").stdout.strip() == uri2, "uri tells the front end that serves")
    load.wait_progress(200)

    say("SIGSTOP nbdserver-2 under load: its requests are on their way")
    c.qbd("pause", "nbdserver-2")
    load.kill()  # so that its unanswered requests stay unanswered
    wait_until("nbdserver-1 takes over", lambda: nbd_go(path1, "vol0")[0], 30)
    load = t.load(uri1, "--depth", 16, "--reads", 40)
    load.wait_progress(500)
    say("SIGCONT nbdserver-2")
    c.qbd("resume", "nbdserver-2")
    load.wait_progress(1500)  # reads among them are checked at once: no ghost
    load.finish()
    refused_for(c, path2, "nbdserver-1")
    verify(uri1, t.path("model"))


main(scenario)
