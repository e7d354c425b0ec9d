#!/usr/bin/python3
"""Full disks, for real: on a small file system writes end with ENOSPC (P10) and nobody dies or hangs; what was there stays readable, and TRIM makes room again.

One replica's disk smaller than the others': it falls behind and says so; with another replica dead its lack of room is ENOSPC, and the dead one's room of yesterday
does not count."""
import os
import subprocess
import sys

from qbdtest import MIB, SKIPPED, Failure, main, require, run, say, wait_until

MOUNTS = []
CLIENT = """
import errno, nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
piece = 262144
failed = at = 0
while at < int(sys.argv[2]):
    try:
        h.pwrite((at // piece).to_bytes(4, "little") * (piece // 4), at)
        at += piece
    except nbd.Error as e:
        if e.errnum != errno.ENOSPC:
            raise
        failed = 1
        break
for k in range(0, at, piece):
    if h.pread(piece, k) != (k // piece).to_bytes(4, "little") * (piece // 4):
        sys.exit(f"what was written at {k} is gone")
if failed and sys.argv[3] == "trim":
    h.trim(at // 2 // piece * piece, 0)
print(at)
h.shutdown()
"""


def mount(t, name, size):
    image, at = t.path(name + ".img"), t.path(name)
    run(["truncate", "-s", str(size), image])
    run(["mkfs.ext4", "-q", "-F", image])
    os.mkdir(at)
    if run(["mount", "-o", "loop", image, at], check=False).returncode:
        print("SKIP: a loop mount is not possible here")
        raise SystemExit(SKIPPED)
    MOUNTS.append(at)
    return at


def fill(t, uri, limit, then=""):
    """Writes until ENOSPC; returns how far it came."""
    try:
        r = run(["/usr/bin/python3", "-c", CLIENT, uri, str(limit), then], timeout=60)
    except subprocess.TimeoutExpired:
        raise Failure("a write to a full store is never answered") from None
    return int(r.stdout)


def all_run(c, names):
    for name in names:
        require(c.component(name)["state"] == "running", f"{name} has ended: {c.log(name)[-400:]}")


def uneven(t, name):
    """A running cluster whose replica-2 has a disk smaller than the volume."""
    c = t.cluster(name)
    c.start("--size", "1G", "--wal-size", "64M", "--extent-size", "128M")
    c.qbd("stop")
    home, data = os.path.join(mount(t, name + "-small", 700 * MIB), "replica-2"), os.path.join(c.dir, "data", "replica-2")
    run(["mv", data, home])
    os.symlink(home, data)
    return c, c.start()


def one_small_disk_one_dead(t):
    c, uri = uneven(t, "dead")
    c.kill("replica-3")
    at = fill(t, uri, 1024 * MIB)
    require(at < 1024 * MIB, "replica-2 has no room for that")
    say(f"with replica-3 dead and replica-2 on a small disk: ENOSPC after {at // MIB} MiB")
    all_run(c, ["replica-1", "replica-2", "nbdserver-1"])
    c.qbd("kill", "all")


def one_small_disk(t):
    c, uri = uneven(t, "behind")
    require(fill(t, uri, 900 * MIB) == 900 * MIB, "replica-1 and replica-3 have room for all, and are a majority")
    all_run(c, c.names())
    require("no space is left" in c.log("replica-2"), "replica-2 does not say why it falls behind")
    say("with replica-2 on a small disk: the other two took all, it fell behind")
    c.qbd("kill", "all")


def all_small(t):
    c = t.cluster(os.path.join(os.path.basename(mount(t, "disk", 1100 * MIB)), "cluster"))
    uri = c.start("--size", "1G", "--wal-size", "64M", "--extent-size", "64M")
    at = fill(t, uri, 900 * MIB, "trim")
    require(at < 900 * MIB, "three copies of that have no room")
    say(f"ENOSPC after {at // MIB} MiB; half of it trimmed")
    all_run(c, c.names())
    part = at // 4 // MIB * MIB
    wait_until("there is room again", lambda: fill(t, uri, part) == part, 60, 1)
    c.qbd("kill", "all")
    c.start()
    c.wait_up_to_date()
    all_run(c, c.names())


def scenario(t):
    try:
        all_small(t)
        one_small_disk_one_dead(t)
        one_small_disk(t)
    finally:
        for c in t.clusters:
            c.qbd("kill", "all", check=False)
        for at in MOUNTS:
            wait_until(f"{at} is unmounted", lambda m=at: run(["umount", m], check=False).returncode == 0, 20, 0.2)


if os.geteuid() != 0:
    print("SKIP: a loop mount needs root")
    sys.exit(SKIPPED)
main(scenario)
