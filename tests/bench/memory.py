#!/usr/bin/python3
"""All daemons' memory through QBD_MINUTES (60) of mixed load: 4 KiB 70/30 at depth 32 all the time, 1 MiB writes and reads in sequence for some seconds every now and then, connections that come and go. Aims: a front end within 64 MiB
and its payload window (128 MiB unless told otherwise), a replica within 128 MiB and its caches (overlay and leaves), flat.

Flat: the median of the last quarter's samples is not more than 3 % (or 4 MiB) above that of the second quarter's; the first one is the caches' to fill. Prints the figures and a JSON line; QBD_OUT: a directory for memory.json and memory.svg (gnuplot).
As a test (QBD_MINUTES below 10) it does not judge flatness: nothing is warm yet."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import BIN, MIB, main, require, run, say  # noqa: E402

MINUTES = float(os.environ.get("QBD_MINUTES", "60"))
OUT = os.environ.get("QBD_OUT")
SAMPLES = 240
BURSTS = 20  # of large requests, spread over the run
SIZE = os.environ.get("QBD_SIZE", "2G")
FRONTEND_MIB, PAYLOAD_MIB, REPLICA_MIB = 64, 128, 128
QBD = os.path.join(BIN, "qbd")


def resident(pid):
    with open(f"/proc/{pid}/status") as f:
        s = dict(line.split(":", 1) for line in f)
    return int(s["VmRSS"].split()[0]) * 1024


def metrics(c):
    """{(name, replica or front end): value} without the volumes' own."""
    got = {}
    for line in run([QBD, "metrics", "--dir", c.dir, "--once"]).stdout.splitlines():
        if line.startswith("#") or 'volume="' in line:
            continue
        name, rest = line.split("{", 1)
        labels, value = rest.rsplit("} ", 1)
        who = [x.split('"')[1] for x in labels.split(",") if x.startswith(("replica=", "frontend="))]
        if who:
            got[name, who[0]] = float(value)
    return got


def sample(c, pids, began):
    m, got = metrics(c), {}
    for name, pid in pids.items():
        caches = m.get(("qbd_replica_overlay_bytes", name), 0) + m.get(("qbd_replica_leaf_cache_bytes", name), 0)
        got[name] = {"rss": resident(pid), "caches": caches, "arena": m.get(("qbd_frontend_memory_bytes", name), 0)}
    return {"s": round(time.monotonic() - began, 1), "daemons": got}


def burst(t, uri, k, seconds):
    return t.popen([QBD, "bench", uri, "--workload", ("seq-write", "seq-read")[k % 2], *(["--overwrite"] if k % 2 == 0 else []), "--connections", "4", "--runtime", f"{seconds:.2f}", "--json", "--quiet"],
                   stdout=subprocess.DEVNULL)


def watch(t, c, uri):
    seconds = MINUTES * 60
    pids = {n: c.pid(n) for n in c.names()}
    load = t.popen([QBD, "bench", uri, "--workload", "mixed", "--overwrite", "--runtime", f"{seconds:.1f}", "--json", "--quiet"], stdout=subprocess.PIPE, text=True)
    began, samples, bursts, last = time.monotonic(), [], [], None
    while time.monotonic() - began < seconds:
        samples.append(sample(c, pids, began))
        part = int((time.monotonic() - began) / seconds * BURSTS)
        if part >= len(bursts) + 1:
            if last:
                require(last.wait() == 0, "a burst failed")
            last = burst(t, uri, len(bursts), min(5.0, seconds / BURSTS / 4))
            bursts.append(part)
        time.sleep(seconds / SAMPLES)
    out, _ = load.communicate(timeout=120)
    require(load.returncode == 0, f"the load failed: {out[-500:]}")
    if last:
        last.wait()
    require(pids == {n: c.pid(n) for n in c.names()}, "a daemon was replaced meanwhile")
    return samples, json.loads(out)


def judge(samples, name):
    rss = [s["daemons"][name]["rss"] / MIB for s in samples]
    quarter = max(1, len(rss) // 4)
    early, late = statistics.median(rss[quarter:2 * quarter] or rss), statistics.median(rss[-quarter:])
    caches = max(s["daemons"][name]["caches"] for s in samples) / MIB
    limit = REPLICA_MIB + caches if name.startswith("replica") else FRONTEND_MIB + PAYLOAD_MIB
    return {"first_mib": rss[0], "most_mib": max(rss), "second_quarter_mib": early, "last_quarter_mib": late, "caches_mib": caches, "limit_mib": limit,
            "within": max(rss) <= limit, "flat": late <= max(early * 1.03, early + 4)}


def plot(samples, names, path):
    if not shutil.which("gnuplot"):
        say("no plot: gnuplot is not installed (Debian: gnuplot-nox)")
        return
    data = "".join(f"{s['s'] / 60:.3f} " + " ".join(f"{s['daemons'][n]['rss'] / MIB:.1f}" for n in names) + "\n" for s in samples)
    lines = ", ".join(f"$d using 1:{i + 2} with lines lw 2 title '{n}'" for i, n in enumerate(names))
    script = (f"set terminal svg size 900,420 font 'sans-serif,12' background '#ffffff'\nset output '{path}'\nset title 'Resident memory through mixed load'\nset xlabel 'minutes'\nset ylabel 'MiB'\n"
              f"set yrange [0:*]\nset grid\nset key outside top center horizontal\n$d << END\n{data}END\nplot {lines}\n")
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def scenario(t):
    c = t.cluster()
    uri = c.start("--size", SIZE)
    samples, load = watch(t, c, uri)
    names = list(samples[0]["daemons"])
    figures = {n: judge(samples, n) for n in names}
    for n, f in figures.items():
        say(f"{n}: {f['first_mib']:.0f} MiB at first, {f['second_quarter_mib']:.0f} in the second quarter, {f['last_quarter_mib']:.0f} in the last, at most {f['most_mib']:.0f} of {f['limit_mib']:.0f}"
            f"{' (its caches held ' + format(f['caches_mib'], '.0f') + ')' if f['caches_mib'] else ''}: {'within' if f['within'] else 'TOO MUCH'}, {'flat' if f['flat'] else 'GROWS'}")
    result = {"minutes": MINUTES, "size": SIZE, "requests": load["read"]["ops"] + load["write"]["ops"], "daemons": figures}
    print(json.dumps({"memory": result}), flush=True)
    if OUT:
        os.makedirs(OUT, exist_ok=True)
        with open(os.path.join(OUT, "memory.json"), "w") as f:
            json.dump({**result, "samples": samples}, f)
            f.write("\n")
        plot(samples, names, os.path.join(OUT, "memory.svg"))
    require(MINUTES < 10 or all(f["flat"] for f in figures.values()), "memory grows")
    require(figures["nbdserver-1"]["within"], "the front end takes more than it may")
    require(MINUTES < 10 or all(f["within"] for f in figures.values()), "a replica takes more than it may")


main(scenario)
