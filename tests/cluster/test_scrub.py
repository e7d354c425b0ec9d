#!/usr/bin/python3
"""Blocks rot on disks while the volume is written to. qbd scrub finds all of them, by address; what another replica has comes back, what none has is an error of reads of that block alone until it is written again; replicas that scrub by
themselves find the same."""
import errno
import os

import nbd
from qbdtest import BLOCK, MIB, REPLICAS, find, main, require, rot, run, say, verify, wait_until

SIZE = 24 * MIB
NOWHERE = 4000  # rots on every replica


def read(h, block):
    """The error (0: none) and the block."""
    try:
        return 0, h.pread(BLOCK, block * BLOCK)
    except nbd.Error as e:
        return e.errnum, b""


def scrub(c, *args):
    r = c.tool("scrub", *args, check=False, timeout=300)
    say(f"qbd scrub {' '.join(args)}: exit status {r.returncode}")
    return r.returncode, r.stdout + r.stderr


def last(c, name):
    return c.replica(name)["scrub"]["last"]


def found(c, name):
    """Bad ones, and those that were known to be lost by the time the pass came by."""
    o = last(c, name)
    return o["bad_blocks"] + o["lost_blocks"], o["repaired_blocks"]


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "256M", "--wal-size", "64M", "--extent-size", "64M")
    data = os.urandom(SIZE)
    with open(t.path("bulk"), "wb") as f:
        f.write(data)
    run(["nbdcopy", "--requests=8", t.path("bulk"), uri])
    for name in REPLICAS:
        # A large write is in its place at once; a scrub reads what a checkpoint has mapped.
        wait_until(f"{name} wrote it back", lambda name=name: c.component(name)["status"]["store"]["overlay_bytes"] == 0, 60, 0.2)
        require(all(find(c, name, data[b * BLOCK:(b + 1) * BLOCK]) for b in (0, SIZE // BLOCK - 1)), f"{name} has no such blocks")
    load = t.load(uri, "--depth", 4, "--rate", 100, "--first", 128 * MIB, "--span", 8 * MIB)
    load.wait_progress(50)
    status, text = scrub(c, "--now")
    require(status == 0, f"a sound cluster: {text}")
    require(all(last(c, f"replica-{i}")["verified_bytes"] >= SIZE for i in (1, 2, 3)), "not all was read")

    for block in range(100, 2100, 50):
        rot(c, "replica-2", data, block)
    for name in ("replica-1", "replica-3"):
        rot(c, name, data, 3000)
    for name in REPLICAS:
        rot(c, name, data, NOWHERE)
    status, text = scrub(c, "--now", "--volume", "vol0")
    require(status == 1, f"a block is lost: {text}")
    require(text.count(f"at byte {NOWHERE * BLOCK} (block {NOWHERE}): no replica has it intact") == 3, text)
    require(found(c, "replica-2") == (41, 40), text)
    for name in ("replica-1", "replica-3"):
        # the other one may have asked it for block 3000 before its own pass came there: then it was mended already
        require(found(c, name) in ((2, 1), (1, 0)), text)
    require("could not be repaired" in c.tool("status").stdout, "status does not say so")

    h = nbd.NBD()
    h.connect_uri(uri)
    require(read(h, NOWHERE)[0] == errno.EIO, "no EIO for the block that is lost")
    for block in (NOWHERE - 1, NOWHERE + 1, 100, 3000):
        require(read(h, block) == (0, data[block * BLOCK:(block + 1) * BLOCK]), f"block {block}")
    with open(t.path("one"), "wb") as f:
        f.write(data[:(NOWHERE + 1) * BLOCK])
    run(["nbdcopy", t.path("one"), uri])
    require(read(h, NOWHERE) == (0, data[NOWHERE * BLOCK:(NOWHERE + 1) * BLOCK]), "written again, and still not there")
    h.shutdown()
    status, text = scrub(c, "--now")
    require(status == 0, f"all is well again: {text}")
    load.wait_progress(50)
    load.finish()
    verify(uri, t.path("model"))
    t.compare(uri, "bulk")


main(scenario)
