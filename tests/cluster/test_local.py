#!/usr/bin/python3
"""The contract of `qbd local`: exit statuses, one line of reason, files, processes."""
import json
import os
import signal
import subprocess
import time

from qbdtest import BIN, main, nbd_go, require, run, say, socket_path, wait_until


def fails(c, *args):
    r = c.qbd(*args, check=False)
    require(r.returncode == 1, f"qbd local {' '.join(args)}: exit status {r.returncode}, not 1")
    require(len(r.stderr.strip().splitlines()) == 1, f"qbd local {' '.join(args)}: not one line: {r.stderr}")
    say(r.stderr.strip())


def start_and_look(c):
    fails(c, "status")
    fails(c, "start", "--size", "4097")
    fails(c, "start", "--replicas", "0")
    require(not os.path.exists(c.dir), "a refused start leaves nothing")
    uri = c.small("--volume", "db")
    require(c.qbd("uri").stdout.strip() == uri and "/db?socket=" in uri, f"the URI: {uri}")
    require(c.names() == ["replica-1", "replica-2", "replica-3", "nbdserver-1"], f"the components' names: {c.names()}")
    for s in c.local_status()["components"]:
        require(s["state"] == "running" and s["pid"] == c.pid(s["name"]), f"{s['name']} runs: {s}")
        require(os.getsid(s["pid"]) == s["pid"], f"{s['name']} has a session of its own")
        require(os.readlink(f"/proc/{s['pid']}/fd/0") == "/dev/null", "stdin is /dev/null")
    table = c.qbd("status").stdout
    require("replica-2" in table and "nbdserver-1" in table, f"the table: {table}")
    say("\n" + table)
    text = c.tool("status").stdout
    require("3 of 3 replicas up to date" in text and "nbdserver-1" in text, f"qbd status: {text}")
    say("\n" + text)
    return uri


def processes(c, uri):
    pids = {n: c.pid(n) for n in c.names()}
    require(c.start() == uri, "starting a running cluster again")
    require(pids == {n: c.pid(n) for n in c.names()}, "restarts nothing that runs")
    fails(c, "start", "--size", "1G")
    fails(c, "start", "--volume", "other")
    fails(c, "restart", "replica-1")
    fails(c, "kill", "replica-9")
    fails(c, "wipe", "nbdserver-1")
    fails(c, "pid", "replica-0")
    c.qbd("kill", "replica-2")
    fails(c, "pid", "replica-2")
    fails(c, "kill", "replica-2")
    fails(c, "pause", "replica-2")
    time.sleep(0.5)
    require(c.component("replica-2")["state"] == "stopped", "nothing is restarted behind the user's back")
    # A pid file that names somebody else's process is not believed.
    innocent = subprocess.Popen(["sleep", "600"])
    path = os.path.join(c.dir, "run", "replica-2.pid")
    with open(path) as f:
        old = f.read().split()
    with open(path, "w") as f:
        f.write(f"{innocent.pid} {old[1]} {old[2]}\n")
    fails(c, "kill", "replica-2")
    require(innocent.poll() is None, "a reused pid is not killed")
    innocent.send_signal(signal.SIGKILL)
    innocent.wait()
    c.restart("replica-2")
    require(c.pid("replica-2") not in (None, pids["replica-2"]), "it runs again")
    require(c.pid("replica-1") == pids["replica-1"], "and the others were left alone")


def which_cluster(c):
    """Every command that works on a cluster is told which in one way, and refuses in the same words."""
    commands = (("status",), ("scrub",), ("rebuild", "--add", "replica-4"), ("recover", "--from", "replica-1"), ("volume", "create", "db"))
    for command in commands:
        for given, words in (
            ((), "say which cluster: --dir DIR or --cluster FILE"),
            (("--dir", ""), "say which cluster: --dir DIR or --cluster FILE"),
            (("--dir", c.dir, "--cluster", c.config()), "say which cluster: --dir DIR or --cluster FILE"),
            (("--cluster", c.dir), "is not a configuration file; say --cluster FILE"),
            (("--cluster", os.path.join(c.dir, "local.json")), "local.json:2: "),
            (("--dir", os.path.join(c.dir, "logs")), "logs holds no local cluster"),
        ):
            r = run([os.path.join(BIN, "qbd"), *command, *given], check=False)
            require(r.returncode == 1 and words in r.stderr and len(r.stderr.strip().splitlines()) == 1, f"{command} {given}: {r.returncode}, {r.stderr}")
            require(r.stdout == "", f"{command} {given}: {r.stdout}")
    by_file, by_dir = (json.loads(run([os.path.join(BIN, "qbd"), "status", "--json", *given]).stdout) for given in (("-c", c.config()), ("-d", c.dir)))
    require(by_file["volumes"][0]["up_to_date"] == by_dir["volumes"][0]["up_to_date"], "both ways lead to the same cluster")


def scenario(t):
    c = t.cluster("a directory; with a name that is long enough for no socket " + "x" * 60)
    uri = start_and_look(c)
    processes(c, uri)
    which_cluster(c)
    require(c.qbd("add", "replica").stdout.strip() == "replica-4", "add prints the name")
    require(c.component("replica-4")["state"] == "running", "and it runs")
    fails(c, "add", "volume")
    c.qbd("stop")
    require(all(s["state"] == "stopped" and s["pid"] is None for s in c.local_status()["components"]), "all is stopped")
    c.qbd("stop")
    require(c.start() == uri, "the URI stays")
    # A component that cannot start ends the wait, with its own words.
    c.qbd("stop")
    superblock = os.path.join(c.dir, "data", "replica-3", "superblock")
    with open(superblock, "r+b") as f:
        image = f.read()
        f.seek(0)
        f.write(bytes(len(image)))
    fails(c, "start")
    with open(superblock, "r+b") as f:
        f.write(image)
    c.start()
    wait_until("GO", lambda: nbd_go(socket_path(uri).replace("%3B", ";").replace("%20", " "), "db")[0], 20)
    c.qbd("stop")
    require(not [p for p in os.listdir("/proc") if p.isdigit() and c.dir in cmdline(p)], "nothing is left running")


def cmdline(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


main(scenario)
