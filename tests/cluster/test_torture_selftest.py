#!/usr/bin/python3
"""The load generator itself can fail: against qemu-nbd on a plain file it accepts a faithful server, and finds one flipped byte, a lost write, a stale sector (which is also what a ghost looks like)."""
import os
import subprocess
import tempfile
import time

from qbdtest import MIB, TORTURE, main, require, run, say, wait_until

SPAN = 8 * MIB


class Server:
    def __init__(self, t):
        self.t, self.disk = t, t.path("disk")
        self.sock_dir = tempfile.TemporaryDirectory(prefix="qbd-")  # short: qemu-nbd wants an absolute path
        self.sock = os.path.join(self.sock_dir.name, "s")
        with open(self.disk, "wb") as f:
            f.truncate(SPAN)
        self.uri = f"nbd+unix:///vol0?socket={self.sock}"
        self.process = None

    def start(self):
        self.process = self.t.popen(["qemu-nbd", "-f", "raw", "-k", self.sock, "-e", "8", "-t", "-x", "vol0", self.disk], stderr=subprocess.DEVNULL)
        wait_until("qemu-nbd listens", lambda: os.path.exists(self.sock), 10)

    def stop(self):
        self.process.kill()
        self.process.wait()
        if os.path.exists(self.sock):
            os.unlink(self.sock)

    def bytes(self):
        with open(self.disk, "rb") as f:
            return f.read()

    def write(self, b):
        with open(self.disk, "r+b") as f:
            f.write(b)


def check(server, model):
    server.start()
    r = run([TORTURE, "verify", "--uri", server.uri, "--model", model], check=False)
    server.stop()
    require(r.returncode in (0, 1), f"verify itself failed: {r.stderr}")
    return r.returncode == 0


def scenario(t):
    s = Server(t)
    s.start()
    load = t.load(s.uri, "--depth", 8, "--span", SPAN, "--max-len", 65536, "--hangup-ms", 50, "--drain-s", 0)
    load.wait_progress(400)
    early = s.bytes()
    load.wait_progress(2000)
    s.stop()  # a file that was written to is not forgotten with the process
    time.sleep(0.1)
    s.start()
    load.wait_progress(500)
    s.stop()
    load.finish()
    model, good = t.path("model"), s.bytes()
    with open(model, "rb") as f:
        saved = f.read()

    def again(content):
        """A fresh judgement of that content: verifying decides what was ambiguous."""
        s.write(content)
        with open(model, "wb") as f:
            f.write(saved)
        return check(s, model)

    require(again(good), "a faithful server is accepted")
    flipped = bytearray(good)
    flipped[SPAN // 2 + 77] ^= 1
    require(not again(flipped), "one flipped byte is found")
    require(not again(early), "a disk of long ago is found")
    stale = [i for i in range(0, SPAN, 512) if early[i:i + 512] != good[i:i + 512] and any(early[i:i + 512])]
    tried = t.random.sample(stale, 16)
    found = 0
    for at in tried:
        lost = bytearray(good)
        lost[at:at + 512] = early[at:at + 512]
        found += not again(lost)
    # where a write was lost with its connection, the older bytes may be right as well
    require(found >= 10, f"one sector of an older write is found, {found} times of {len(tried)}")
    require(not again(bytes(SPAN)), "an empty disk is found")
    require(again(good), "and the good one is still good")
    say("the model tells good from bad")


main(scenario)
