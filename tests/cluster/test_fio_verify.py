#!/usr/bin/python3
"""fio over NBD with verification (4k random writes, crc32c) passes while every replica is killed and restarted in turn. QBD_FIO_SIZE: how much it writes (64M)."""
import os

from qbdtest import REPLICAS, SCALE, Failure, fio, main, require, say, wait_until

SIZE = os.environ.get("QBD_FIO_SIZE", "64M")
RATE = os.environ.get("QBD_FIO_RATE", "1500")  # writes a second: long enough for every replica to die under it


def scenario(t):
    c = t.cluster()
    uri = c.small()
    with open(t.path("fio.out"), "w+") as out:
        job = t.popen(fio(uri, "verify", "--rw=randwrite", "--bs=4k", "--iodepth=16", f"--size={SIZE}", f"--rate_iops={RATE}",
                          "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--randrepeat=0", "--group_reporting"), stdout=out, stderr=out, cwd=t.dir)
        killed = 0
        while job.poll() is None:
            for name in REPLICAS:
                c.kill(name)
                at = c.status()["commit"]
                wait_until("writes go on", lambda: job.poll() is not None or c.status()["commit"] > at + 50, 30)
                killed += job.poll() is None
                c.restart(name)
                c.wait_up_to_date()
                if job.poll() is not None:
                    break
        out.seek(0)
        text = out.read()
    if job.returncode != 0:
        raise Failure(f"fio ended with {job.returncode}: {text[-3000:]}")
    require(killed >= 3 or SCALE > 1, f"only {killed} replicas died while fio ran: make it write more (QBD_FIO_SIZE)")
    say(f"fio verified {SIZE} of 4k random writes; {killed} replicas were killed and restarted meanwhile")


main(scenario)
