#!/usr/bin/python3
"""The smallest log that format takes, and more in flight than fits: a log full of entries whose commit has not been announced must not hold back the announcement.

A deep queue of large writes, once as it comes and once with all replicas stopped for a moment while it is full. Nobody may give up a connection over it, and it must all complete."""
import time

import nbd
from qbdtest import MIB, REPLICAS, main, require, say, wait_until

WRITES = 300
GIVEN_UP = "no sign of life"


def burst(uri, meanwhile):
    h = nbd.NBD()
    h.connect_uri(uri)
    payload = nbd.Buffer.from_bytearray(bytearray(b"q" * MIB))
    left = [WRITES]

    def done(error):
        require(error.value == 0, f"a write failed: {error.value}")
        left[0] -= 1
        return 1

    for i in range(WRITES):
        h.aio_pwrite(payload, i % 200 * MIB, completion=done)
    meanwhile(lambda: h.poll(0))

    def all_done():
        h.poll(100)
        return left[0] == 0

    wait_until(f"{WRITES} writes of 1 MiB answered", all_done, 60, 0)
    h.shutdown()


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--wal-size", "64M", "--extent-size", "64M")
    burst(uri, lambda poll: None)
    say("a deep queue completes")

    def stop_all(poll):
        for name in REPLICAS:
            c.qbd("pause", name)
        for _ in range(12):
            poll()
            time.sleep(0.1)  # how long they are stopped: less than a link may be silent
        for name in REPLICAS:
            c.qbd("resume", name)

    burst(uri, stop_all)
    say("so does one during which all replicas stood still")
    require(GIVEN_UP not in c.log("nbdserver-1"), "the front end gave up connections: the streams were stuck")


main(scenario)
