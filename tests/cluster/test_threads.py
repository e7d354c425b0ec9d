#!/usr/bin/python3
"""A front end of two threads with volumes on both: clients of all of them write while replicas and the front end itself are killed, and the status is of all."""
import json
import os
import signal
import subprocess

from qbdtest import BIN, main, require, run, say, verify, wait_until

QBD = os.path.join(BIN, "qbd")
VOLUMES = [f"many{i}" for i in range(5)]


def configure(t, c):
    """The cluster's configuration with more volumes, whose groups are made."""
    conf = t.path("many.conf")
    with open(c.config()) as f:
        text = f.read()
    replicas = text.split("replicas = ", 1)[1].splitlines()[0]
    with open(conf, "w") as f:
        f.write(text + "".join(f"\n[volume {n}]\ngroup = {100 + i}\nsize = 64M\nreplicas = {replicas}\n" for i, n in enumerate(VOLUMES)))
    for n in VOLUMES:
        run([QBD, "volume", "create", "--cluster", conf, n])
    return conf


class FrontEnd:
    def __init__(self, t, conf, directory):
        self.t, self.conf = t, conf
        self.sock, self.status_sock = os.path.join(directory, "many"), os.path.join(directory, "many.status")
        self.process = None

    def start(self):
        log = open(self.t.path("many.log"), "a")
        self.process = self.t.popen([os.path.join(BIN, "qbd-nbdserver"), "--config", self.conf, "--name", "many", "--listen", f"unix:{self.sock}", "--status",
                                     f"unix:{self.status_sock}", "--threads", "2", *[x for n in VOLUMES for x in ("--volume", n)]], stderr=log)
        for n in VOLUMES:
            wait_until(f"{n} is served", lambda: run(["nbdinfo", "--size", self.uri(n)], check=False).returncode == 0)

    def uri(self, volume):
        return f"nbd+unix:///{volume}?socket={self.sock}"

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def end(self, how):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def check_log(self):
        with open(self.t.path("many.log"), errors="replace") as f:
            for line in f:
                require(not any(w in line for w in ("Assertion", "Sanitizer", "runtime error:")), line.strip())


def scenario(t):
    c = t.cluster()
    c.small()
    front = FrontEnd(t, configure(t, c), os.path.realpath(os.path.join(c.dir, "run")))
    front.start()
    require(front.threads() >= 2, "it has two threads")
    listed = json.loads(run(["nbdinfo", "--list", "--json", f"nbd+unix://?socket={front.sock}"]).stdout)["exports"]
    require([x["export-name"] for x in listed] == VOLUMES, f"every volume is listed, in order: {listed}")
    loads = {n: t.load(front.uri(n), "--depth", "8", "--max-len", "65536", model=n) for n in VOLUMES}
    for load in loads.values():
        load.wait_progress(300)

    text = run([QBD, "metrics", "--once", "--cluster", front.conf, "--frontend", f"unix:{front.status_sock}"]).stdout
    told = [line for line in text.splitlines() if line.startswith("qbd_frontend_volume_state{") and 'state="attached"' in line]
    require(all(any(f'"{n}"' in line and line.endswith(" 1") for line in told) for n in VOLUMES), f"all are attached: {text}")

    say("a replica dies and returns")
    c.kill("replica-2")
    for load in loads.values():
        load.wait_progress(200)
    c.restart("replica-2")
    for load in loads.values():
        load.wait_progress(200)

    say("the front end dies and returns")
    front.end(signal.SIGKILL)
    front.start()
    for load in loads.values():
        load.wait_progress(200)

    say("the front end stops in order and returns")
    require(front.end(signal.SIGTERM) == 0, "it ends by itself")
    front.start()
    for n, load in loads.items():
        load.wait_progress(200)
        load.finish()
    for n in VOLUMES:
        verify(front.uri(n), t.path(n))
    require(front.end(signal.SIGTERM) == 0, "it ends by itself")
    front.check_log()


main(scenario)
