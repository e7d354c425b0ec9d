#!/usr/bin/python3
"""Two of three disks are lost: the volume refuses to serve and says why, nothing on the survivor is touched; `qbd recover` makes what it holds the volume, only when told so in so many words; then
it gets company again. And all replicas killed, one disk lost: what the others hold is served, and the lost one rebuilt."""
import os
import time

from qbdtest import BIN, MIB, main, require, run, say, verify

NAMES = ["replica-1", "replica-2", "replica-3"]


def qbd(c, *args, check=True):
    return run([os.path.join(BIN, "qbd"), args[0], "--dir", c.dir, *args[1:]], check=check)


def write(t, uri, name):
    with open(t.path(name), "wb") as f:
        for _ in range(48):
            f.write(os.urandom(MIB))
    run(["nbdcopy", "--requests=8", t.path(name), uri])


def compare(t, uri, name):
    run(["nbdcopy", "--requests=8", uri, t.path("back")])
    run(["cmp", f"--bytes={48 * MIB}", t.path(name), t.path("back")])


def one_disk_of_all_killed(t, c):
    c.kill("all")
    c.qbd("wipe", "replica-3")
    uri = c.start()
    compare(t, uri, "first")
    qbd(c, "rebuild", "--lost", "replica-3")
    c.wait_up_to_date(3)
    say("all killed, one disk lost: served at once, then rebuilt")


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "256M", "--wal-size", "64M", "--extent-size", "64M")
    write(t, uri, "first")
    one_disk_of_all_killed(t, c)
    c.kill("all")
    c.qbd("wipe", "replica-2")
    c.qbd("wipe", "replica-3")
    r = c.qbd("start", "--timeout", "4", check=False)
    require(r.returncode == 1, "a volume without a majority serves")
    text = qbd(c, "status").stdout
    require("majority" in text, f"the status says what is missing: {text}")
    r = qbd(c, "rebuild", "--lost", "replica-2", check=False)
    require(r.returncode == 1 and "majority" in r.stderr, f"a rebuild without a majority is refused: {r.stderr}")
    r = qbd(c, "recover", "--from", "replica-2", "--i-accept-data-loss", check=False)
    require(r.returncode == 1, f"an empty disk is no survivor: {r.stdout} {r.stderr}")
    r = qbd(c, "recover", "--from", "replica-1")
    require("nothing was done" in r.stdout, f"without the word nothing happens: {r.stdout}")
    require(c.component("replica-1")["status"]["groups"][0]["voters"] != [], "it says who votes")
    for _ in range(60):
        r = qbd(c, "recover", "--from", "replica-1", "--i-accept-data-loss", check=False)
        if r.returncode == 0 or "lease" not in r.stderr:
            break
        time.sleep(0.5)  # the dead front end's
    require(r.returncode == 0, f"the recovery: {r.stdout} {r.stderr}")
    uri = c.start()
    compare(t, uri, "first")
    say("what the survivor held is served")
    r = qbd(c, "recover", "--from", "replica-1", "--i-accept-data-loss", check=False)
    require(r.returncode == 1 and "only voter" in r.stderr, f"there is nothing more to recover: {r.stderr}")
    qbd(c, "rebuild", "--add", "replica-2")
    qbd(c, "rebuild", "--add", "replica-3")
    c.wait_up_to_date(3)
    load = t.load(uri, "--depth", 8, "--rate", 300, "--first", 64 * MIB, "--span", 32 * MIB)
    load.wait_progress(100)
    c.kill("replica-1")
    load.wait_progress(100)
    compare(t, uri, "first")
    load.finish()
    verify(uri, t.path("model"))
    c.restart("replica-1")
    c.wait_up_to_date(3)
    qbd(c, "rebuild", "--remove", "replica-2")
    require(c.status()["up_to_date"] == 2, f"two voters are left: {c.status()}")
    c.kill("all")
    uri = c.start()
    compare(t, uri, "first")
    verify(uri, t.path("model"))


main(scenario)
