"""Other replicated systems for tests/bench/compare, each with three copies on this machine and reached through qemu-nbd, where Debian's packages for them are installed:
GlusterFS (glusterfs-server, qemu-block-extra) and Ceph RBD (ceph-mon, ceph-osd, ceph-common, qemu-block-extra).

All that they write lies under the benchmark's directory, but for GlusterFS's logs. What runs already on this machine is not touched: a glusterd or a monitor at its usual port makes them stay away."""
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import uuid

from compare_servers import ThroughQemu, call, stop

BLOCK_DRIVERS = "/usr/lib/x86_64-linux-gnu/qemu"


def own_address():
    """One of this host's own that is not the loopback's: GlusterFS takes no other for a brick."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))  # sends nothing
        return s.getsockname()[0]


def taken(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def missing_for(programs, driver, port):
    """Why it cannot be measured here, or None."""
    absent = [package for program, package in programs.items() if not shutil.which(program)]
    if not os.path.exists(os.path.join(BLOCK_DRIVERS, f"block-{driver}.so")):
        absent.append("qemu-block-extra")
    if absent:
        return f"{', '.join(dict.fromkeys(absent))} not installed"
    if os.geteuid():
        return "needs root"
    return f"something listens on port {port} already" if taken(port) else None


def retry(fn, what, seconds=180):
    until = time.monotonic() + seconds
    while True:
        try:
            return fn()
        except SystemExit:
            if time.monotonic() > until:
                raise SystemExit(f"waited {seconds} s in vain: {what}") from None
            time.sleep(0.2)


class Gluster(ThroughQemu):
    key, name = "glusterfs", "GlusterFS, 3 copies"
    copies = 3

    @staticmethod
    def missing():
        return missing_for({"glusterd": "glusterfs-server", "gluster": "glusterfs-cli", "qemu-nbd": "qemu-utils"}, "gluster", 24007)

    def begin(self):
        self.cli = ["gluster", "--mode=script", f"--glusterd-sock={os.path.join(self.sockets, 'glusterd')}"]
        for d in ("work", "run", "b1", "b2", "b3"):
            os.makedirs(os.path.join(self.dir, d))
        conf = os.path.join(self.dir, "glusterd.vol")
        with open(conf, "w") as f:
            f.write(f"volume management\n  type mgmt/glusterd\n  option working-directory {self.dir}/work\n  option run-directory {self.dir}/run\n"
                    f"  option glusterd-sockfile {self.sockets}/glusterd\n  option transport-type socket\nend-volume\n")
        self.glusterd = self.popen(["glusterd", "--no-daemon", "--volfile", conf, "--log-file", os.path.join(self.dir, "glusterd.log"), "--pid-file", os.path.join(self.dir, "pid")])
        retry(lambda: call([*self.cli, "volume", "list"]), "glusterd answers")
        self.address = own_address()
        call([*self.cli, "volume", "create", "v", "replica", "3", *[f"{self.address}:{self.dir}/b{i}" for i in (1, 2, 3)], "force"])
        call([*self.cli, "volume", "start", "v"])

    def image(self, name):
        return f"gluster://{self.address}/v/{name}"

    def make(self, name, size):
        retry(lambda: super(Gluster, self).make(name, size), "the volume takes a file")

    def bricks(self):
        """The daemons that glusterd started, by their command lines, which name our directory or our socket's."""
        got = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().split(b"\0")
            except OSError:
                continue
            line = b" ".join(argv).decode(errors="replace")
            if os.path.basename(argv[0]) in (b"glusterfsd", b"glusterfs") and self.dir in line:
                brick = re.search(rf"{re.escape(self.dir)}/(b[123])", line)
                got[brick.group(1) if brick else f"glusterfs-{pid}"] = int(pid)
        return got

    def pids(self):
        named = {("glusterd" if p is self.glusterd else f"qemu-nbd-{i}"): p.pid for i, p in enumerate(self.processes)}
        return {**named, **self.bricks()}

    def end(self):
        stop(self.processes[1:])
        if self.processes:
            subprocess.run([*self.cli, "volume", "stop", "v", "force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        for pid in self.bricks().values():
            os.kill(pid, signal.SIGKILL)
        super().end()


class Ceph(ThroughQemu):
    """One monitor, three OSDs (BlueStore on files), RBD images; no manager: nothing here asks for statistics."""

    key, name = "ceph", "Ceph RBD, 3 copies"
    copies = 3
    flush = False  # an OSD answers when its journal has it, and librbd caches nothing under --cache=none
    OSD_GIB = 8
    PORT = 6789

    @staticmethod
    def missing():
        return missing_for({"ceph-mon": "ceph-mon", "ceph-osd": "ceph-osd", "ceph": "ceph-common", "rbd": "ceph-common", "qemu-nbd": "qemu-utils"}, "rbd", Ceph.PORT)

    def ceph(self, *args):
        return call(["ceph", "--conf", self.conf, "--connect-timeout", "10", *args])

    def begin(self):
        self.conf, self.restarts = os.path.join(self.dir, "ceph.conf"), 0
        fsid = str(uuid.uuid4())
        with open(self.conf, "w") as f:
            f.write(f"[global]\nfsid = {fsid}\nmon host = v1:127.0.0.1:{self.PORT}\npublic addr = 127.0.0.1\ncluster addr = 127.0.0.1\nauth cluster required = none\nauth service required = none\n"
                    f"auth client required = none\nosd pool default size = 3\nosd pool default min size = 2\nosd crush chooseleaf type = 0\nrun dir = {self.sockets}\nadmin socket = {self.sockets}/$name.asok\n"
                    f"log file = {self.dir}/$name.log\npid file = {self.dir}/$name.pid\nmon data = {self.dir}/mon\nosd data = {self.dir}/osd$id\nbluestore block create = true\n"
                    f"bluestore block size = {self.OSD_GIB << 30}\nosd objectstore = bluestore\nkeyring = {self.dir}/keyring\nmon data avail crit = 1\n"
                    "auth allow insecure global id reclaim = true\nmon allow pool delete = true\n")
        monmap = os.path.join(self.dir, "monmap")
        call(["monmaptool", "--create", "--addv", "a", f"[v1:127.0.0.1:{self.PORT}]", "--fsid", fsid, monmap])
        os.makedirs(os.path.join(self.dir, "mon"))
        call(["ceph-mon", "--conf", self.conf, "--mkfs", "-i", "a", "--monmap", monmap])
        self.popen(["ceph-mon", "--conf", self.conf, "-f", "-i", "a"])
        retry(lambda: self.ceph("osd", "stat"), "the monitor answers")
        for _ in range(3):
            self.start_osd()
        retry(self.all_up, "three OSDs are up")
        self.ceph("osd", "pool", "create", "rbd", "32", "32", "replicated")

    def start_osd(self):
        osd = str(uuid.uuid4())
        i = self.ceph("osd", "new", osd).strip()
        os.makedirs(os.path.join(self.dir, f"osd{i}"))
        call(["ceph-osd", "--conf", self.conf, "-i", i, "--mkfs", "--osd-uuid", osd])
        self.popen(["ceph-osd", "--conf", self.conf, "-f", "-i", i])

    def all_up(self):
        """An OSD that asks before it was told the monitor's fsid is refused ("wrong fsid") and ends: it is started again."""
        for i, p in enumerate(self.processes):
            if p.poll() is None:
                continue
            self.restarts += 1
            if self.restarts > 10:
                with open(os.path.join(self.dir, f"osd.{p.args[-1]}.log"), errors="replace") as f:
                    raise RuntimeError(f"{' '.join(p.args)} ended: {''.join(f.readlines()[-5:])}")
            self.processes[i] = subprocess.Popen(p.args, stdin=subprocess.DEVNULL)
        if not re.search(r"\b3 up", self.ceph("osd", "stat")):
            raise SystemExit("not yet")

    def image(self, name):
        return f"rbd:rbd/{name}:conf={self.conf}"

    def make(self, name, size):
        retry(lambda: call(["rbd", "--conf", self.conf, "create", "--size", size, "--image-shared", f"rbd/{name}"]), "the pool takes an image")

    def pids(self):
        names = ["ceph-mon", "ceph-osd-0", "ceph-osd-1", "ceph-osd-2"]
        return {names[i] if i < len(names) else f"qemu-nbd-{i}": p.pid for i, p in enumerate(self.processes)}
