"""A local cluster of real daemons for a test, a write load on it, and waiting for events with a limit.

Every test starts what it needs under a directory of its own, and ends what it started by pid, whatever happens. Environment:
  QBD_BIN       where qbd, qbd-replica, qbd-nbdserver are        QBD_TORTURE   the load generator
  QBD_ROUNDS    how often tests that repeat something do it      QBD_KEEP=1    leave the directory of a failed test
  QBD_SCALE     stretches time limits (sanitizer builds)         QBD_SEED      of what is random
"""
import json
import mmap
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

BIN = os.environ["QBD_BIN"]
TORTURE = os.environ.get("QBD_TORTURE", os.path.join(BIN, "torture"))
SCALE = float(os.environ.get("QBD_SCALE", "1"))
SEED = int(os.environ.get("QBD_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
MIB = 1 << 20
BLOCK = 4096
REPLICAS = ("replica-1", "replica-2", "replica-3")  # of a cluster that is started as it comes
SKIPPED = 77


class Failure(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Failure(text)


def say(text):
    print(f"[{time.monotonic() - STARTED:7.2f}] {text}", flush=True)


STARTED = time.monotonic()


def wait_until(what, condition, timeout=30.0, pause=0.02):
    """Waits for an event; returns what the condition returned."""
    until = time.monotonic() + timeout * SCALE
    while True:
        got = condition()
        if got:
            return got
        require(time.monotonic() < until, f"waited {timeout * SCALE:.0f} s in vain: {what}")
        time.sleep(pause)


def run(argv, timeout=120.0, check=True, **kw):
    r = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout * SCALE, **kw)
    require(not check or r.returncode == 0, f"{' '.join(map(str, argv))}: exit status {r.returncode}: {r.stderr.strip()[-1500:]}")
    return r


def fio(uri, name, *args):
    """Its command line. With --thread, as its job would be a process in a session of its own, which outlives it when it is killed."""
    return ["fio", f"--name={name}", "--thread", "--ioengine=nbd", f"--uri={uri}", *args]


class Cluster:
    def __init__(self, base, name="cluster"):
        self.dir = os.path.join(base, name)
        self.uri = None

    def qbd(self, command, *args, check=True, timeout=120.0):
        return run([os.path.join(BIN, "qbd"), "local", command, "--dir", self.dir, *map(str, args)], check=check, timeout=timeout)

    def tool(self, command, *args, check=True, timeout=120.0):
        """Any other command of qbd, on this cluster."""
        return run([os.path.join(BIN, "qbd"), command, "--dir", self.dir, *map(str, args)], check=check, timeout=timeout)

    def start(self, *args, timeout=90.0):
        r = self.qbd("start", *args, timeout=timeout)
        last = r.stdout.strip().splitlines()[-1]
        require(last.startswith("ready nbd"), f"start ends with: {last}")
        self.uri = last.split(" ", 1)[1]
        return self.uri

    def small(self, *args):
        """A cluster whose disks hold little. Its logs reach back about 128 MiB: a load that a replica is to catch up with needs a --rate."""
        return self.start("--size", "256M", "--wal-size", "256M", "--extent-size", "64M", *args)

    def pid(self, name):
        r = self.qbd("pid", name, check=False)
        return int(r.stdout) if r.returncode == 0 else None

    def names(self):
        return [c["name"] for c in self.local_status()["components"]]

    def local_status(self):
        return json.loads(self.qbd("status", "--json").stdout)

    def component(self, name):
        return next(c for c in self.local_status()["components"] if c["name"] == name)

    def status(self):
        return json.loads(self.tool("status", "--json").stdout)["volumes"][0]

    def replica(self, name):
        return next(r for r in self.status()["replicas"] if r["name"] == name)

    def kill(self, name):
        say(f"kill -9 {name}")
        self.qbd("kill", name)

    def restart(self, name):
        say(f"restart {name}")
        self.qbd("restart", name)

    def wait_up_to_date(self, n=3, timeout=60.0):
        wait_until(f"{n} replicas up to date", lambda: self.status()["up_to_date"] >= n, timeout, 0.1)

    def config(self):
        return os.path.join(self.dir, "cluster.conf")

    def log(self, name):
        with open(os.path.join(self.dir, "logs", name + ".log"), errors="replace") as f:
            return f.read()

    def end(self):
        """By pid, through the pid files and their checks; a start that is still forking cannot be, for run() waits."""
        if os.path.exists(os.path.join(self.dir, "local.json")):
            self.qbd("kill", "all", check=False)
            self.qbd("stop", check=False)  # takes the socket directory's link away

    def check_logs(self):
        """Daemons that said something that they never should."""
        logs = os.path.join(self.dir, "logs")
        for name in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
            with open(os.path.join(logs, name), errors="replace") as f:
                for line in f:
                    bad = next((w for w in ("Assertion", "assertion failed", "AddressSanitizer", "runtime error:", "LeakSanitizer", "ThreadSanitizer") if w in line), None)
                    require(not bad, f"{name}: {line.strip()}")


class Load:
    """torture write in the background (torture.c)."""

    def __init__(self, test, uri, model, *args, seconds=600):
        self.model = model
        self.out = open(os.path.join(test.dir, f"torture-{len(test.loads)}.out"), "w+")
        self.process = subprocess.Popen([TORTURE, "write", "--uri", uri, "--model", model, "--seconds", str(seconds), *map(str, args)],
                                        stdin=subprocess.DEVNULL, stdout=self.out, stderr=subprocess.STDOUT)
        test.loads.append(self)

    def _counter(self, at):
        try:
            with open(self.model, "rb") as f:
                f.seek(at)
                b = f.read(8)
                return struct.unpack("<Q", b)[0] if len(b) == 8 else 0
        except FileNotFoundError:
            return 0

    def acked(self):
        return self._counter(64)

    def connects(self):
        return self._counter(72)

    def alive(self):
        if self.process.poll() is not None:
            raise Failure(f"the load ended with {self.process.returncode}: {self.output()[-3000:]}")
        return True

    def output(self):
        self.out.flush()
        self.out.seek(0)
        return self.out.read()

    def wait_progress(self, more, timeout=40.0):
        """Until `more` further writes were acknowledged."""
        target = self.acked() + more
        wait_until(f"{more} more acknowledged writes", lambda: self.alive() and self.acked() >= target, timeout, 0.005)

    def finish(self, timeout=60.0):
        """Ends it as its time would; returns its report."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout * SCALE)
        except subprocess.TimeoutExpired:
            raise Failure("the load does not end") from None
        text = self.output()
        require(self.process.returncode == 0, f"the load ended with {self.process.returncode}: {text[-3000:]}")
        return json.loads(text.strip().splitlines()[-1])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def verify(uri, model, timeout=120.0):
    r = run([TORTURE, "verify", "--uri", uri, "--model", model], check=False, timeout=timeout)
    require(r.returncode == 0, f"verification failed ({r.returncode}): {r.stderr.strip()[-3000:]}")
    report = json.loads(r.stdout)
    say(f"verified {report['verified_bytes'] // MIB} MiB after {report['acked_writes']} acknowledged writes")
    return report


def extents(c, name):
    folder = os.path.join(c.dir, "data", name, "extents")
    return [os.path.join(folder, f) for f in sorted(os.listdir(folder))]


def find(c, name, want):
    """Where it is in the extents of a replica's disk, or None."""
    for path in extents(c, name):
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            at = m.find(want)
            if at >= 0:
                return path, at
    return None


def rot(c, name, data, block):
    """Flips a bit of the block of the data, on one replica's disk."""
    path, at = find(c, name, data[block * BLOCK:(block + 1) * BLOCK])
    with open(path, "r+b") as f:
        f.seek(at + 77)
        old = f.read(1)
        f.seek(at + 77)
        f.write(bytes([old[0] ^ 4]))
        f.flush()
        os.fsync(f.fileno())


def socket_path(uri):
    return uri.split("socket=", 1)[1]


def nbd_go(path, export, timeout=10.0):
    """A bare handshake: (True, "") when GO succeeds, else (False, the server's own words)."""
    def take(s, n):
        b = b""
        while len(b) < n:
            more = s.recv(n - len(b))
            if not more:
                raise ConnectionError("closed")
            b += more
        return b
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout * SCALE)
        try:
            s.connect(path)
            magic, opt, _flags = struct.unpack(">QQH", take(s, 18))
            require(magic == 0x4E42444D41474943 and opt == 0x49484156454F5054, "no NBD server's greeting")
            name = export.encode()
            s.sendall(struct.pack(">IQII", 3, opt, 7, 4 + len(name) + 2) + struct.pack(">I", len(name)) + name + b"\0\0")
            while True:
                _m, _o, kind, length = struct.unpack(">QIII", take(s, 20))
                text = take(s, length)
                if kind == 1:
                    return True, ""
                if kind & 0x80000000:
                    return False, text.decode(errors="replace")
        except (OSError, ConnectionError) as e:
            return False, str(e)


class Test:
    def __init__(self, name):
        self.name = name
        self.random = random.Random(SEED)
        self.clusters, self.loads, self.processes = [], [], []
        # A path as long as this one also shows that long paths are fine (unix sockets have room for 107 bytes).
        self.dir = tempfile.mkdtemp(prefix=f"qbd-{name}-", dir=os.environ.get("QBD_TEST_DIR", os.getcwd()))

    def cluster(self, name="cluster"):
        c = Cluster(self.dir, name)
        self.clusters.append(c)
        return c

    def load(self, uri, *args, model="model", **kw):
        return Load(self, uri, self.path(model), *args, **kw)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write_random(self, uri, name, mib):
        """Random bytes at the volume's start, which compare() looks for."""
        with open(self.path(name), "wb") as f:
            for _ in range(mib):
                f.write(os.urandom(MIB))
        run(["nbdcopy", "--requests=8", self.path(name), uri])

    def compare(self, uri, name):
        """The volume begins with what the file holds."""
        run(["nbdcopy", "--requests=8", uri, self.path("back")])
        run(["cmp", f"--bytes={os.path.getsize(self.path(name))}", self.path(name), self.path("back")])
        os.remove(self.path("back"))

    def popen(self, argv, **kw):
        # a session of its own: what it starts ends with it
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True, **kw)
        self.processes.append(p)
        return p

    def end(self, good):
        for load in self.loads:
            load.kill()
        for p in self.processes:
            try:
                os.killpg(p.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # nobody of it is left
            p.wait()
        for c in self.clusters:
            try:
                c.end()
            except Exception as e:  # the rest must be ended too
                print(f"ending {c.dir}: {e}", flush=True)
        if good or not os.environ.get("QBD_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        else:
            print(f"kept: {self.dir}", flush=True)

    def show_logs(self):
        for c in self.clusters:
            logs = os.path.join(c.dir, "logs")
            for name in sorted(os.listdir(logs)) if os.path.isdir(logs) else []:
                with open(os.path.join(logs, name), errors="replace") as f:
                    print(f"--- {name}, its end\n" + "".join(f.readlines()[-25:]), flush=True)
        for load in self.loads:
            print(f"--- load\n{load.output()[-2000:]}", flush=True)


def main(scenario):
    """Runs one scenario(test); exit status 0 or 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that `finally` runs when ctest's limit strikes
    test = Test(os.path.basename(sys.argv[0]).removesuffix(".py").removeprefix("test_"))
    print(f"{test.name}: seed {SEED} (QBD_SEED={SEED} repeats its choices)", flush=True)
    good = False
    try:
        scenario(test)
        for c in test.clusters:
            c.check_logs()
        good = True
        say("good")
    except Exception as e:
        if not isinstance(e, Failure):
            traceback.print_exc()
        say(f"FAILED (seed {SEED}): {e}")
        test.show_logs()
    finally:
        test.end(good)
    sys.exit(0 if good else 1)
