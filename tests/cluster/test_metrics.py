#!/usr/bin/python3
"""qbd metrics, with real daemons and over real HTTP: what it says when all is well and when replicas are killed, frozen, wiped, rebuilt and rot; that every page is valid; that nothing a daemon does holds it up."""
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

from qbdtest import BIN, BLOCK, MIB, REPLICAS, SCALE, Failure, find, main, require, rot, run, say, wait_until

QBD = os.path.join(BIN, "qbd")
LIMIT = 2.0 + 1.5 * SCALE  # a page takes two seconds at most; and this machine its time

HEAD = re.compile(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.*)")
SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')


class Page:
    """Text format 0.0.4, read as strictly as promtool does."""

    def __init__(self, text):
        require(text.endswith("\n"), "the last line does not end")
        self.types, self.series = {}, {}
        helped, closed, current = set(), set(), None
        for line in text[:-1].split("\n"):
            m = HEAD.fullmatch(line)
            if m:
                kind, name, rest = m.groups()
                require(name not in closed, f"{name}: its lines are not together")
                if kind == "HELP":
                    require(name not in helped and rest, f"{name}: HELP twice, or empty")
                    helped.add(name)
                else:
                    require(name not in self.types and rest in ("gauge", "counter"), line)
                    self.types[name] = rest
                if current not in (None, name):
                    closed.add(current)
                current = name
                continue
            m = SAMPLE.fullmatch(line)
            require(m, f"no sample: {line!r}")
            name, labels, value = m.groups()
            require(name == current and name in self.types and name in helped, f"outside of its family: {line}")
            got, rest = {}, labels or ""
            while rest:
                m = LABEL.match(rest)
                require(m and m.group(1) not in got, f"labels: {line!r}")
                got[m.group(1)] = m.group(2)
                rest = rest[m.end():]
            key = (name, frozenset(got.items()))
            require(key not in self.series, f"twice: {line}")
            require(re.fullmatch(r"-?\d+(\.\d+)?(e[-+]\d+)?", value), f"value: {line}")
            self.series[key] = float(value)
        for name, kind in self.types.items():
            require((kind == "counter") == name.endswith("_total"), f"{name} is a {kind}")
            require(any(k[0] == name for k in self.series), f"{name} has no samples")
        hot = {}
        for (name, labels), value in self.series.items():
            if name.endswith("_state"):
                key = name, frozenset(x for x in labels if x[0] != "state")
                hot[key] = hot.get(key, 0) + value
        require(hot and all(v == 1 for v in hot.values()), f"not one-hot: {hot}")

    def all(self, name, /, **labels):
        return {k[1]: v for k, v in self.series.items() if k[0] == name and set(labels.items()) <= k[1]}

    def get(self, name, /, **labels):
        found = list(self.all(name, **labels).values())
        require(len(found) < 2, f"{name}{labels}: {len(found)} of it")
        return found[0] if found else None

    def state(self, replica):
        return next(dict(k)["state"] for k, v in self.all("qbd_replica_state", replica=replica).items() if v == 1)

    def counters(self):
        return {k: v for k, v in self.series.items() if self.types[k[0]] == "counter"}


class Exporter:
    def __init__(self, t, *args):
        self.process = t.popen([QBD, "metrics", "--listen", "127.0.0.1:0", *args], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        m = re.fullmatch(r"serving http://127\.0\.0\.1:(\d+)/metrics\n", line)
        require(m, f"it begins with {line!r}")
        self.port = int(m.group(1))

    def request(self, path="/metrics", method="GET", body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30 * SCALE)
        try:
            c.request(method, path, body)
            r = c.getresponse()
            return r.status, r.headers, r.read().decode()
        finally:
            c.close()

    def page(self):
        began = time.monotonic()
        status, headers, text = self.request()
        took = time.monotonic() - began
        require(status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", f"{status} {headers}")
        require(took < LIMIT, f"a page took {took:.1f} s")
        return Page(text)

    def resources(self):
        """Memory in bytes, descriptors, threads."""
        with open(f"/proc/{self.process.pid}/status") as f:
            s = dict(line.split(":", 1) for line in f)
        return int(s["VmRSS"].split()[0]) * 1024, len(os.listdir(f"/proc/{self.process.pid}/fd")), int(s["Threads"])

    def end(self, how):
        began = time.monotonic()
        self.process.send_signal(how)
        status = self.process.wait(LIMIT + 5)
        require(status == 0, f"exit status {status} after {signal.Signals(how).name}")
        say(f"{signal.Signals(how).name} ends it in {time.monotonic() - began:.1f} s")


def refused(words, *args):
    r = run([QBD, "metrics", *args], check=False)
    require(r.returncode == 1 and words in r.stderr and len(r.stderr.strip().splitlines()) == 1 and not r.stdout, f"{args}: {r.returncode} {r.stderr}")


def wrong_command_lines(c, e):
    refused("say which cluster: --dir DIR or --cluster FILE")
    refused("--once serves nothing", "--dir", c.dir, "--once", "--listen", "127.0.0.1:0")
    refused("Address already in use", "--dir", c.dir, "--listen", f"127.0.0.1:{e.port}")
    for address in ("nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:65536", "127.0.0.1:-1", "::1:80"):
        refused(f"--listen: {address} is no address", "--dir", c.dir, "--listen", address)
    refused("cannot listen on 192.0.2.1:0", "--dir", c.dir, "--listen", "192.0.2.1:0")
    refused("is there twice", "--dir", c.dir, "--frontend", "a=h:1", "--frontend", "a=h:2")
    refused("is no address", "--dir", c.dir, "--frontend", "a=h")


def the_server(e):
    status, headers, text = e.request("/metrics", "HEAD")
    require(status == 200 and text == "" and int(headers["Content-Length"]) > 1000, "HEAD")
    require(e.request("/")[0] == 200 and "/metrics" in e.request("/")[2], "the index")
    require(e.request("/metrics?x=1")[0] == 200, "a query is nothing to it")
    require(e.request("/else")[0] == 404 and e.request("/metrics/")[0] == 404, "what is not there")
    require(e.request("/metrics", "POST", "x" * 100000)[0] == 405, "POST")
    with socket.create_connection(("127.0.0.1", e.port)) as s:  # one that never asks holds up nobody
        s.sendall(b"GET /metr")
        e.page()
    with socket.create_connection(("127.0.0.1", e.port)) as s:
        s.sendall(b"\0\xff nonsense\r\n\r\n" * 50)
        e.page()


def all_is_well(c, e, load):
    page = e.page()
    status = c.status()
    require(page.get("qbd_volume_redundancy") == 1 and page.get("qbd_volume_quorum") == 1 and page.get("qbd_volume_voters") == 3, "redundancy")
    require(page.get("qbd_volume_size_bytes") == status["size_bytes"] and page.get("qbd_volume_holder", holder=status["holder"]) == 1, "size and holder")
    require(page.get("qbd_exporter_scrape_errors") == 0 and page.get("qbd_exporter_config_ok") == 1, "the exporter")
    for name in REPLICAS:
        require(page.get("qbd_replica_up", replica=name) == 1 and page.state(name) == "up_to_date", name)
        require(page.get("qbd_replica_state_seconds", replica=name) <= page.get("qbd_replica_uptime_seconds", replica=name), "longer in a state than it runs")
        require(0 <= page.get("qbd_replica_wal_redo_bytes", replica=name) <= page.get("qbd_replica_wal_live_bytes", replica=name), "the log")
    require(sorted(page.all("qbd_frontend_up").values()) == [1, 1], "front ends")
    attached = [dict(k)["frontend"] for k, v in page.all("qbd_frontend_volume_state", state="attached").items() if v]
    require(attached == [status["holder"]], f"attached: {attached}")
    before = page.counters()
    load.wait_progress(100)
    after = e.page().counters()
    require(set(before) == set(after), "counters come and go")
    fallen = [k for k in before if after[k] < before[k]]
    require(not fallen, f"fell: {fallen}")
    rose = {k[0] for k in before if after[k] > before[k]}
    require({"qbd_replica_wal_written_bytes_total", "qbd_replica_accepts_total", "qbd_frontend_requests_total", "qbd_frontend_volume_entries_total"} <= rose, f"rose: {rose}")
    once = Page(run([QBD, "metrics", "--dir", c.dir, "--once"]).stdout)
    require(set(once.series) == set(e.page().series), "--once has other series")


def only_up(page, replica):
    """A replica that does not answer says nothing."""
    require(page.get("qbd_replica_up", replica=replica) == 0, f"{replica} is up")
    names = {k[0] for k in page.series if ("replica", replica) in k[1]}
    require(names == {"qbd_replica_up", "qbd_replica_state"}, f"{replica} is down and has {names}")


def killed(c, e):
    c.kill("replica-2")
    page = e.page()
    only_up(page, "replica-2")
    require(page.state("replica-2") == "stopped" and page.get("qbd_volume_redundancy") == 0 and page.get("qbd_volume_replicas_lost") == 0, "killed")
    require(page.get("qbd_exporter_scrape_errors") == 1, "errors")
    c.restart("replica-2")
    c.wait_up_to_date()
    require(e.page().get("qbd_volume_redundancy") == 1, "back")


class Tormentor(threading.Thread):
    """Takes connections and gives a byte of nonsense, or of a frame's beginning, now and then, or all at once."""

    def __init__(self, data, pause):
        super().__init__(daemon=True)
        self.data, self.pause = data, pause
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        while True:
            s, _ = self.listener.accept()
            threading.Thread(target=self.torment, args=(s,), daemon=True).start()

    def torment(self, s):
        try:
            for b in self.data:
                s.sendall(b)
                time.sleep(self.pause)
        except OSError:
            pass
        s.close()


def frozen(t, c):
    """The exporter does not know of processes here: the daemon takes connections and never answers. Front ends that trickle, spew and refuse."""
    silent = socket.create_server(("127.0.0.1", 0))
    greeting = bytes.fromhex("31444251") + bytes(28)
    torments = {"trickle": Tormentor([bytes([b]) for b in greeting * 100], 0.1), "spew": Tormentor([os.urandom(65536)] * 1000, 0), "close": Tormentor([], 0)}
    args = [x for name, w in torments.items() for x in ("--frontend", f"{name}={w.address}")]
    c.qbd("pause", "replica-3")
    with open(os.path.join(c.dir, "local.json")) as f:
        sockets = json.load(f)["run"]
    mute = f"127.0.0.1:{silent.getsockname()[1]}"
    e = Exporter(t, "--cluster", c.config(), *args, "--frontend", mute, "--frontend", "nobody=127.0.0.1:1", "--frontend", f"fe=unix:{sockets}/nbdserver-1.status")
    page = e.page()
    only_up(page, "replica-3")
    require(page.state("replica-3") == "unreachable" and page.get("qbd_volume_redundancy") == 0, "frozen")
    require([page.get("qbd_frontend_up", frontend=n) for n in ("fe", mute, "nobody", *torments)] == [1, 0, 0, 0, 0, 0], "which front ends are up")
    require(page.get("qbd_frontend_info", frontend="fe", name="nbdserver-1") == 1 and page.get("qbd_frontend_peer_up", frontend="fe", peer="replica-1") == 1, "the one that is")
    pages, failures = [], []

    def scrape():
        try:
            pages.append(e.page())
        except (Failure, OSError, http.client.HTTPException) as x:
            failures.append(str(x))
    began = time.monotonic()
    threads = [threading.Thread(target=scrape) for _ in range(40)]
    for th in threads:
        th.start()
    for th in threads:
        th.join()
    require(len(pages) == 40, f"{len(pages)} of 40 scrapes at once: {failures[:3]}")
    say(f"40 scrapes at once of a cluster that does not answer took {time.monotonic() - began:.1f} s")
    # Ended while a round is under way: the one who waits gets its page.
    th = threading.Thread(target=scrape)
    th.start()
    time.sleep(0.3)
    e.end(signal.SIGINT)
    th.join()
    c.qbd("resume", "replica-3")
    c.wait_up_to_date()
    silent.close()


def configuration_breaks(t, c):
    path = t.path("copy.conf")
    shutil.copy(c.config(), path)
    e = Exporter(t, "--cluster", path)
    require(e.page().get("qbd_exporter_config_ok") == 1, "the configuration")
    with open(path, "a") as f:
        f.write("[nonsense]\n")
    page = e.page()
    require(page.get("qbd_exporter_config_ok") == 0 and page.get("qbd_volume_redundancy") == 1, "an older reading is used")
    shutil.copy(c.config(), path)
    require(e.page().get("qbd_exporter_config_ok") == 1, "the configuration again")
    e.end(signal.SIGTERM)


def wiped_and_rebuilt(c, e):
    c.kill("replica-3")
    c.qbd("wipe", "replica-3")
    page = e.page()
    require(page.state("replica-3") == "lost_its_data" and page.get("qbd_volume_replicas_lost") == 1, "wiped")
    c.restart("replica-3")
    page = wait_until("it answers", lambda: (lambda p: p if p.get("qbd_replica_up", replica="replica-3") else None)(e.page()), 20, 0.1)
    require(page.state("replica-3") == "needs_rebuild" and page.get("qbd_volume_replicas_lost") == 1 and page.get("qbd_volume_redundancy") == 0, "a new disk")
    rebuild = subprocess.Popen([QBD, "rebuild", "--dir", c.dir, "--lost", "replica-3", "--quiet"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen = set()
    while rebuild.poll() is None:  # every page of these is checked
        seen.add(e.page().state("replica-3"))
        time.sleep(0.01)
    require(rebuild.returncode == 0, f"rebuild: {rebuild.stderr.read()}")
    say(f"states during the rebuild: {sorted(seen)}")
    c.wait_up_to_date()
    page = e.page()
    require(page.get("qbd_volume_redundancy") == 1 and page.get("qbd_volume_replicas_lost") == 0 and page.state("replica-3") == "up_to_date", "rebuilt")
    require(page.get("qbd_replica_copied_bytes_total", replica="replica-3") >= MIB or page.get("qbd_replica_catchup_entries_total", replica="replica-3") >= 10, "what it got")


def rotten(c, e, data):
    wait_until("replica-1 wrote it back", lambda: all(find(c, "replica-1", data[b * BLOCK:(b + 1) * BLOCK]) for b in (0, len(data) // BLOCK - 1)), 60, 0.5)
    rot(c, "replica-1", data, 5)
    run([QBD, "scrub", "--dir", c.dir, "--now"])
    page = e.page()
    want = {"bad": 1, "repaired": 1, "unrepaired": 0, "lost": 0, "undecided": 0, "disowned": 0}
    for what, n in want.items():
        got = page.get(f"qbd_replica_scrub_last_{what}_blocks", replica="replica-1")
        require(got == n, f"{what}: {got}, not {n}")
    require(page.get("qbd_replica_bad_blocks_total", replica="replica-1") >= 1 and page.get("qbd_replica_repaired_blocks_total", replica="replica-1") >= 1, "ever")
    require(page.get("qbd_replica_scrub_last_bad_blocks", replica="replica-2") == 0, "the others")
    for name in REPLICAS:
        require(page.get("qbd_replica_scrub_passes_total", replica=name) >= 1, "passes")
        require(abs(page.get("qbd_replica_scrub_last_completed_timestamp_seconds", replica=name) - time.time()) < 300, "when")


def leaks_nothing(e):
    for _ in range(100):
        e.page()
    before = e.resources()
    for _ in range(500):
        e.request()
    after = wait_until("threads end", lambda: (lambda r: r if r[1] <= before[1] and r[2] <= before[2] + 1 else None)(e.resources()), 15, 0.1)
    say(f"500 scrapes: memory {before[0] // 1024} to {after[0] // 1024} KiB, descriptors {before[1]} to {after[1]}")
    if SCALE == 1:  # a sanitizer keeps what is freed for a while
        require(after[0] - before[0] < 4 * MIB, f"memory grew from {before[0]} to {after[0]}")


def scenario(t):
    c = t.cluster()
    uri = c.small("--nbdservers", 2)
    data = os.urandom(2 * MIB)
    with open(t.path("bulk"), "wb") as f:
        f.write(data)
    run(["nbdcopy", t.path("bulk"), uri])
    load = t.load(uri, "--depth", 4, "--rate", 100, "--first", 128 * MIB, "--span", 8 * MIB)
    load.wait_progress(20)
    e = Exporter(t, "--dir", c.dir)
    wrong_command_lines(c, e)
    the_server(e)
    all_is_well(c, e, load)
    leaks_nothing(e)
    killed(c, e)
    frozen(t, c)
    configuration_breaks(t, c)
    wiped_and_rebuilt(c, e)
    rotten(c, e, data)
    load.finish()
    c.qbd("stop")
    page = e.page()
    require(page.get("qbd_volume_quorum") == 0 and page.get("qbd_volume_redundancy") == -2 and page.get("qbd_volume_size_bytes") is None, "nobody is there")
    require(sum(page.all("qbd_frontend_up").values()) == 0 and page.get("qbd_exporter_scrape_errors") == 5, "nobody answers")
    e.end(signal.SIGTERM)


main(scenario)
