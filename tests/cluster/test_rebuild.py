#!/usr/bin/python3
"""A lost disk is replaced while the volume serves a verified load: wipe a replica, `qbd rebuild` onto a fresh one, then lose another original one; nothing is lost.

QBD_ROUNDS rounds on one cluster (2). In every round but the first the target, its donors, the front end and the command itself are killed at random moments and
started again."""
import os
import subprocess
import time

from qbdtest import BIN, MIB, REPLICAS, SCALE, Failure, fio, main, require, say, verify

ROUNDS = int(os.environ.get("QBD_ROUNDS", "2"))


class Rebuild:
    """qbd rebuild in the background; given again when it was killed or gave up while parts of the cluster were down."""

    def __init__(self, t, c, *args):
        self.t, self.args = t, [os.path.join(BIN, "qbd"), "rebuild", "--dir", c.dir, *args]
        self.out = t.path("rebuild.out")
        self.begin()

    def begin(self):
        with open(self.out, "a") as f:
            self.process = self.t.popen(self.args, stdout=f, stderr=f)

    def text(self):
        with open(self.out) as f:
            return f.read()

    def over(self):
        return self.process.poll() is not None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def finish(self):
        for _ in range(5):
            try:
                self.process.wait(120 * SCALE)
            except subprocess.TimeoutExpired:
                raise Failure(f"the rebuild does not end: {self.text()[-1500:]}") from None
            if self.process.returncode == 0:
                return
            say(f"again: {self.text().strip().splitlines()[-1]}")
            self.begin()
        raise Failure(f"the rebuild fails: {self.text()[-1500:]}")


def trouble(t, c, rebuild, names):
    """One random blow while the rebuild runs, and its mending."""
    what = t.random.choice(names + ["nbdserver-1", "command"])
    if what == "command":
        say("kill -9 qbd rebuild")
        rebuild.kill()
        rebuild.begin()
        return
    c.kill(what)
    if t.random.random() < 0.5:
        time.sleep(t.random.random())
    c.restart(what)


def replace(t, c, lost, blows):
    old = c.component(lost)["status"]["identity"]
    c.kill(lost)
    c.qbd("wipe", lost)
    t.load_now.wait_progress(50)
    c.restart(lost)
    require(c.replica(lost)["state"] == "not a member: needs rebuild", f"a fresh disk is no member: {c.replica(lost)}")
    plan = c.tool("rebuild", "--lost", lost, "--dry-run").stdout
    require(old in plan and "voters afterwards" in plan, f"the plan names the lost identity: {plan}")
    require(c.replica(lost)["state"] == "not a member: needs rebuild", "a dry run changes nothing")
    rebuild = Rebuild(t, c, "--lost", lost)
    others = [n for n in REPLICAS if n != lost]
    for _ in range(blows):
        if rebuild.over() and rebuild.process.returncode == 0:
            break
        time.sleep(t.random.random() * 0.3)
        trouble(t, c, rebuild, [lost, t.random.choice(others)])
        c.wait_up_to_date(2)
    rebuild.finish()
    c.wait_up_to_date(3)
    require(old not in str(c.status()), "the lost identity is still spoken of")
    say(f"{lost} was replaced")


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", "512M", "--wal-size", "64M", "--extent-size", "128M")
    t.write_random(uri, "bulk", 192)
    t.load_now = t.load(uri, "--depth", 8, "--rate", 300, "--first", 256 * MIB, "--span", 64 * MIB, seconds=600 + 60 * ROUNDS)
    job = t.popen(fio(uri, "verify", "--rw=randwrite", "--bs=4k", "--iodepth=8", "--offset=384M", "--size=64M",
                      f"--rate_iops={400 if ROUNDS <= 2 else 40}", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--group_reporting"),
                  stdout=open(t.path("fio.out"), "w"), stderr=subprocess.STDOUT, cwd=t.dir) if ROUNDS <= 2 else None
    t.load_now.wait_progress(100)
    for n in range(ROUNDS):
        lost = REPLICAS[n % 3]
        say(f"round {n + 1} of {ROUNDS}: {lost}")
        # fio does not connect again: the front end is left alone as long as it runs
        replace(t, c, lost, t.random.randrange(1, 4) if n and not job else 0)
        other = REPLICAS[(n + 1) % 3]
        c.kill(other)
        t.load_now.wait_progress(50)
        if job:
            job.wait(120 * SCALE)
            with open(t.path("fio.out")) as f:
                require(job.returncode == 0, f"fio's verification failed: {f.read()[-2000:]}")
            say("fio verified what it wrote")
            job = None
        t.compare(uri, "bulk")
        c.restart(other)
        c.wait_up_to_date(3)
    t.load_now.finish()
    verify(uri, t.path("model"))
    c.kill("all")
    uri = c.start()
    verify(uri, t.path("model"))


main(scenario)
