"""The servers that tests/bench/compare measures: each starts what it needs under a directory, names its export's URIs and its processes, and ends what it started.

What a server's writes need to be durable when fio counts them is its `flush`: nothing for qbd, whose answer says so; a flush after each write for the others."""
import json
import os
import shutil
import subprocess
import tempfile
import time

VOLUMES = 4


def call(argv, **kw):
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)
    if r.returncode:
        raise SystemExit(f"{' '.join(argv)}: exit status {r.returncode}: {r.stderr.strip()[-2000:]}")
    return r.stdout


def wait_for(path):
    for _ in range(500):
        if os.path.exists(path):
            return
        time.sleep(0.02)
    raise SystemExit(f"{path} does not appear")


def stop(processes):
    for p in processes:
        p.terminate()
    for p in processes:
        try:
            p.wait(10)
        except subprocess.TimeoutExpired:  # qemu-nbd misses a SIGTERM that comes while it starts
            p.kill()
            p.wait()


class Server:
    flush = True     # its writes need a flush to be durable
    buffered = False  # its writes and reads go through the page cache
    copies = 1

    def __init__(self, base, size):
        self.size = size
        self.dir = os.path.join(base, self.key)
        os.makedirs(self.dir)
        self.sockets = tempfile.mkdtemp(prefix="qbd-bench-")  # a socket's path has room for 107 bytes
        self.processes = []

    def popen(self, argv):
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        self.processes.append(p)
        return p

    def pids(self):
        """{name: pid} of all its processes."""
        return {f"{self.key}-{i}": p.pid for i, p in enumerate(self.processes)}

    def settle(self):
        """Until what was written is where it will stay: it must not be written while another server is measured."""
        os.sync()

    def counters(self):
        """{replica: {counter: value}} of its own."""
        return {}

    def end(self):
        stop(self.processes)
        shutil.rmtree(self.sockets, ignore_errors=True)
        shutil.rmtree(self.dir, ignore_errors=True)


class Qbd(Server):
    key, name = "qbd", "qbd, 3 copies"
    flush, copies = False, 3

    def __init__(self, base, size, volume_size, bin_dir):
        super().__init__(base, size)
        self.bin, self.qbd = bin_dir, os.path.join(bin_dir, "qbd")
        self.volume_size = volume_size
        self.cluster = os.path.join(self.dir, "cluster")
        self.uri = call([self.qbd, "local", "start", "--dir", self.cluster, "--size", size]).strip().splitlines()[-1].split(" ", 1)[1]
        self.many = None

    def volumes(self):
        """More volumes on the same replicas, served by one more front end."""
        if self.many:
            return self.many
        conf, sock = os.path.join(self.dir, "many.conf"), os.path.join(self.sockets, "many")
        with open(os.path.join(self.cluster, "cluster.conf")) as f:
            text = f.read()
        names = [f"many{i}" for i in range(VOLUMES)]
        replicas = text.split("replicas = ", 1)[1].splitlines()[0]
        with open(conf, "w") as f:
            f.write(text + "".join(f"\n[volume {n}]\ngroup = {100 + i}\nsize = {self.volume_size}\nreplicas = {replicas}\n" for i, n in enumerate(names)))
        for n in names:
            call([self.qbd, "volume", "create", "--cluster", conf, n])
        self.popen([os.path.join(self.bin, "qbd-nbdserver"), "--config", conf, "--name", "many", "--listen", f"unix:{sock}", "--log-level", "error",
                    *[x for n in names for x in ("--volume", n)]])
        wait_for(sock)
        self.many = [f"nbd+unix:///{n}?socket={sock}" for n in names]
        for uri in self.many:  # its session has begun when it serves
            self.serves(uri)
        return self.many

    @staticmethod
    def serves(uri):
        for _ in range(500):
            if subprocess.run(["nbdinfo", "--size", uri], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0:
                return
            time.sleep(0.02)
        raise SystemExit(f"{uri} does not serve")

    def pids(self):
        components = json.loads(call([self.qbd, "local", "status", "--dir", self.cluster, "--json"]))["components"]
        return {**{c["name"]: c["pid"] for c in components if c["pid"]}, **super().pids()}

    def counters(self):
        got = {}
        for line in call([self.qbd, "metrics", "--dir", self.cluster, "--once"]).splitlines():
            if line.startswith("qbd_replica_") and 'volume="' not in line:
                name, rest = line.split("{", 1)
                labels, value = rest.rsplit("} ", 1)
                replica = next(x.split('"')[1] for x in labels.split(",") if x.startswith("replica="))
                got.setdefault(replica, {})[name.removeprefix("qbd_replica_")] = float(value)
        return got

    def settle(self):
        """Until no replica has anything left to write back: its checkpoint comes five seconds after the last write."""
        for _ in range(300):
            if all(c["overlay_bytes"] == 0 and c["checkpoint_running"] == 0 for c in self.counters().values()):
                return
            time.sleep(0.1)

    def end(self):
        subprocess.run([self.qbd, "local", "stop", "--dir", self.cluster], check=False)
        super().end()


class ThroughQemu(Server):
    """Each of its files or images is served by a qemu-nbd of its own."""

    options = []  # of qemu-nbd

    def __init__(self, base, size, volume_size):
        super().__init__(base, size)
        self.volume_size, self.many = volume_size, None
        try:
            self.begin()
            self.uri = self.serve("raw", size)
        except BaseException:
            self.end()
            raise

    def begin(self):
        """Starts what has the files or images."""

    def image(self, name):
        """As qemu names it."""
        return os.path.join(self.dir, name)

    def make(self, name, size):
        call(["qemu-img", "create", "-q", "-f", "raw", self.image(name), size])

    def serve(self, name, size):
        sock = os.path.join(self.sockets, name)
        self.make(name, size)
        self.popen(["qemu-nbd", "-f", "raw", "--cache=none", *self.options, "-e", "32", "-t", "-k", sock, "-x", "v", self.image(name)])
        wait_for(sock)
        return f"nbd+unix:///v?socket={sock}"

    def volumes(self):
        if not self.many:
            self.many = [self.serve(f"many{i}", self.volume_size) for i in range(VOLUMES)]
        return self.many


class QemuNbd(ThroughQemu):
    key, name = "qemu-nbd", "qemu-nbd, 1 copy"
    options = ["--aio=io_uring"]


class Nbdkit(Server):
    key, name = "nbdkit", "nbdkit file, 1 copy"
    buffered = True

    def __init__(self, base, size, volume_size):
        super().__init__(base, size)
        self.volume_size = volume_size
        self.sock = os.path.join(self.sockets, "s")
        self.make("raw", size)
        self.popen(["nbdkit", "-f", "-U", self.sock, "file", f"dir={self.dir}"])
        wait_for(self.sock)
        self.uri = f"nbd+unix:///raw?socket={self.sock}"

    def make(self, name, size):
        call(["qemu-img", "create", "-q", "-f", "raw", os.path.join(self.dir, name), size])
        return f"nbd+unix:///{name}?socket={self.sock}"

    def volumes(self):
        return [self.make(f"many{i}", self.volume_size) if not os.path.exists(os.path.join(self.dir, f"many{i}")) else f"nbd+unix:///many{i}?socket={self.sock}"
                for i in range(VOLUMES)]
