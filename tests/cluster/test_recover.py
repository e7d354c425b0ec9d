#!/usr/bin/python3
"""Two of three disks are lost: the volume refuses to serve and says why, nothing on the survivor is touched; `qbd recover` makes what it holds the volume, only when told so in so many words; then
it gets company again. And all replicas killed, one disk lost: what the others hold is served, and the lost one rebuilt."""
import time

from qbdtest import MIB, main, require, say, verify

def one_disk_of_all_killed(t, c):
    c.kill("all")
    c.qbd("wipe", "replica-3")
    uri = c.start()
    t.compare(uri, "first")
    c.tool("rebuild", "--lost", "replica-3")
    c.wait_up_to_date(3)
    say("all killed, one disk lost: served at once, then rebuilt")


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "256M", "--wal-size", "64M", "--extent-size", "64M")
    t.write_random(uri, "first", 48)
    one_disk_of_all_killed(t, c)
    c.kill("all")
    c.qbd("wipe", "replica-2")
    c.qbd("wipe", "replica-3")
    r = c.qbd("start", "--timeout", "4", check=False)
    require(r.returncode == 1, "a volume without a majority serves")
    text = c.tool("status").stdout
    require("majority" in text, f"the status says what is missing: {text}")
    r = c.tool("rebuild", "--lost", "replica-2", check=False)
    require(r.returncode == 1 and "majority" in r.stderr, f"a rebuild without a majority is refused: {r.stderr}")
    r = c.tool("recover", "--from", "replica-2", "--i-accept-data-loss", check=False)
    require(r.returncode == 1, f"an empty disk is no survivor: {r.stdout} {r.stderr}")
    r = c.tool("recover", "--from", "replica-1")
    require("nothing was done" in r.stdout, f"without the word nothing happens: {r.stdout}")
    require(c.component("replica-1")["status"]["groups"][0]["voters"] != [], "it says who votes")
    for _ in range(60):
        r = c.tool("recover", "--from", "replica-1", "--i-accept-data-loss", check=False)
        if r.returncode == 0 or "lease" not in r.stderr:
            break
        time.sleep(0.5)  # the dead front end's
    require(r.returncode == 0, f"the recovery: {r.stdout} {r.stderr}")
    uri = c.start()
    t.compare(uri, "first")
    say("what the survivor held is served")
    r = c.tool("recover", "--from", "replica-1", "--i-accept-data-loss", check=False)
    require(r.returncode == 1 and "only voter" in r.stderr, f"there is nothing more to recover: {r.stderr}")
    c.tool("rebuild", "--add", "replica-2")
    c.tool("rebuild", "--add", "replica-3")
    c.wait_up_to_date(3)
    load = t.load(uri, "--depth", 8, "--rate", 300, "--first", 64 * MIB, "--span", 32 * MIB)
    load.wait_progress(100)
    c.kill("replica-1")
    load.wait_progress(100)
    t.compare(uri, "first")
    load.finish()
    verify(uri, t.path("model"))
    c.restart("replica-1")
    c.wait_up_to_date(3)
    c.tool("rebuild", "--remove", "replica-2")
    require(c.status()["up_to_date"] == 2, f"two voters are left: {c.status()}")
    c.kill("all")
    uri = c.start()
    t.compare(uri, "first")
    verify(uri, t.path("model"))


main(scenario)
