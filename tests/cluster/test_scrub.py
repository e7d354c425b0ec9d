#!/usr/bin/python3
"""Blocks rot on disks while the volume is written to. qbd scrub finds all of them, by address; what another replica has comes back, what none has is an error of reads of that block alone until it is written again; replicas that scrub by
themselves find the same."""
import os
import socket
import struct

from qbdtest import BIN, BLOCK, MIB, find, main, require, rot, run, say, socket_path, verify, wait_until

SIZE = 24 * MIB
NOWHERE = 4000  # rots on every replica


def take(s, count):
    got = b""
    while len(got) < count:
        more = s.recv(count - len(got))
        require(more, "the server hung up")
        got += more
    return got


def attach(path, export):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    s.connect(path)
    take(s, 18)
    s.sendall(struct.pack(">IQII", 3, 0x49484156454F5054, 1, len(export)) + export.encode())
    take(s, 10)
    return s


def read(s, block, n):
    """The error (0: none) and the bytes."""
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 7, block * BLOCK, n * BLOCK))
    magic, error, cookie = struct.unpack(">IIQ", take(s, 16))
    require(magic == 0x67446698 and cookie == 7, "not a simple reply")
    return error, b"" if error else take(s, n * BLOCK)


def scrub(c, *args):
    r = run([os.path.join(BIN, "qbd"), "scrub", "--dir", c.dir, *args], check=False, timeout=300)
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
    for name in ("replica-1", "replica-2", "replica-3"):
        wait_until(f"{name} wrote it back", lambda name=name: all(find(c, name, data[b * BLOCK:(b + 1) * BLOCK]) for b in (0, SIZE // BLOCK - 1)), 60, 0.5)
    load = t.load(uri, "--depth", 4, "--rate", 100, "--first", 128 * MIB, "--span", 8 * MIB)
    load.wait_progress(50)
    status, text = scrub(c, "--now")
    require(status == 0, f"a sound cluster: {text}")
    require(all(last(c, f"replica-{i}")["verified_bytes"] >= SIZE for i in (1, 2, 3)), "not all was read")

    for block in range(100, 2100, 50):
        rot(c, "replica-2", data, block)
    for name in ("replica-1", "replica-3"):
        rot(c, name, data, 3000)
    for name in ("replica-1", "replica-2", "replica-3"):
        rot(c, name, data, NOWHERE)
    status, text = scrub(c, "--now", "--volume", "vol0")
    require(status == 1, f"a block is lost: {text}")
    require(text.count(f"at byte {NOWHERE * BLOCK} (block {NOWHERE}): no replica has it intact") == 3, text)
    require(found(c, "replica-2") == (41, 40), text)
    for name in ("replica-1", "replica-3"):
        # the other one may have asked it for block 3000 before its own pass came there: then it was mended already
        require(found(c, name) in ((2, 1), (1, 0)), text)
    require("could not be repaired" in run([os.path.join(BIN, "qbd"), "status", "--dir", c.dir]).stdout, "status does not say so")

    s = attach(socket_path(uri), "vol0")
    require(read(s, NOWHERE, 1)[0] == 5, "no EIO for the block that is lost")
    for block in (NOWHERE - 1, NOWHERE + 1, 100, 3000):
        require(read(s, block, 1) == (0, data[block * BLOCK:(block + 1) * BLOCK]), f"block {block}")
    with open(t.path("one"), "wb") as f:
        f.write(data[:(NOWHERE + 1) * BLOCK])
    run(["nbdcopy", t.path("one"), uri])
    require(read(s, NOWHERE, 1) == (0, data[NOWHERE * BLOCK:(NOWHERE + 1) * BLOCK]), "written again, and still not there")
    s.close()
    status, text = scrub(c, "--now")
    require(status == 0, f"all is well again: {text}")
    load.wait_progress(50)
    load.finish()
    verify(uri, t.path("model"))
    run(["nbdcopy", "--requests=8", uri, t.path("back")])
    run(["cmp", f"--bytes={SIZE}", t.path("bulk"), t.path("back")])


main(scenario)
