#!/usr/bin/python3
"""A replica misses 100 MiB of random 4 KiB writes to a 100 GiB thin volume, some of them to chunks full of data. What it copies when it is back depends on what changed, not on the volume: at most twice what the changed
chunks of 1 MiB hold. Afterwards it holds what its peers hold: the scrub compares them, and it stands in for one that dies."""
import random

import nbd
from qbdtest import BLOCK, MIB, SEED, main, require, say, wait_until

SIZE = 100 << 30
WRITES = 100 * MIB // BLOCK
FULL = 256  # MiB of data at the start of the volume
IN_FULL = 200  # of the writes
DEPTH = 64


class Pipe:
    """Requests in flight, each of which must succeed."""

    def __init__(self, uri):
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
        self.n = 0

    def _done(self, error):
        require(error.value == 0, f"a request failed: {error.value}")
        self.n -= 1
        return 1

    def _room(self, most):
        wait_until("requests are answered", lambda: self.n <= most or (self.h.poll(100), self.n <= most)[1], 60, 0)

    def write(self, data, at):
        self._room(DEPTH)
        self.n += 1
        self.h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at, completion=self._done)

    def read(self, want, at):
        self._room(DEPTH)
        self.n += 1
        buf = nbd.Buffer(BLOCK)

        def check(error):
            require(buf.to_bytearray() == want, f"wrong bytes at {at}")
            return self._done(error)

        self.h.aio_pread(buf, at, completion=check)

    def end(self):
        self._room(0)
        self.h.shutdown()


def content(block, version):
    return (block * 2 + version).to_bytes(8, "little") * (BLOCK // 8)


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", SIZE, "--wal-size", "64M", "--extent-size", "256M")
    p = Pipe(uri)
    full = FULL * MIB // BLOCK
    for mib in range(FULL):
        p.write(b"".join(content(b, 0) for b in range(mib * 256, mib * 256 + 256)), mib * MIB)
    p.end()
    c.wait_up_to_date()
    c.kill("replica-3")
    rnd = random.Random(SEED)
    blocks = [rnd.randrange(full) for _ in range(IN_FULL)] + [rnd.randrange(full, SIZE // BLOCK) for _ in range(WRITES - IN_FULL)]
    p = Pipe(uri)
    for b in blocks:
        p.write(content(b, 1), b * BLOCK)
    p.end()
    changed = set(blocks)
    held = sum(1 for b in changed if b >= full) * BLOCK + len({b // 256 for b in changed if b < full}) * MIB
    say(f"{len(changed)} blocks changed; their chunks hold {held / MIB:.1f} MiB")
    c.restart("replica-3")
    wait_until("replica-3 copies", lambda: c.replica("replica-3")["state"] in ("needs copy", "copying"), 40, 0.05)
    c.wait_up_to_date(3, 120)
    copied = c.component("replica-3")["status"]["counters"]["bytes_copied"]
    say(f"replica-3 is complete; it copied {copied / MIB:.1f} MiB")
    require(held // 2 <= copied <= 2 * held, "not what changed")
    c.tool("scrub", "--now", timeout=300)
    c.kill("replica-1")
    p = Pipe(uri)
    for b in changed:
        p.read(content(b, 1), b * BLOCK)
    for b in range(0, full, 7):
        p.read(content(b, b in changed), b * BLOCK)
    p.end()


main(scenario)
