#!/usr/bin/python3
"""A 4 TiB thin volume with scattered data behind it: attach, restart after kill -9 under load with a 1 GiB log, memory. (Aims: attach < 1 s, restart < 5 s, RSS <= 128 MiB + caches.)

One replica, because three would need three times the disk: what is measured is a replica's own. Its extent files are made sparse beforehand; each 4 KiB write takes a slab of 64 KiB, so QBD_WRITES=8000000
gives the map of 488 GiB. That fits on 60 GiB of disk where the file system cannot preallocate (ext3, say on a loop device); elsewhere extents are preallocated as they are taken into use. Default: 500000 (30 GiB).
Prints the figures and a JSON line."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import main, nbd_go, require, run, say, socket_path, wait_until  # noqa: E402

WRITES = int(os.environ.get("QBD_WRITES", "500000"))
ROUNDS = 3
GIB = 1 << 30


def rss(c, name):
    with open(f"/proc/{c.pid(name)}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


def fio(t, uri, *args):
    return ["fio", "--name=w", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", "--bs=4k", "--iodepth=64", "--size=4T", "--norandommap", "--randrepeat=0",
            "--random_generator=tausworthe64", *args]


def store(c):
    return c.component("replica-1")["status"]["store"]


def scenario(t):
    c = t.cluster()
    c.start("--replicas", 1, "--size", "4T", "--wal-size", "1G", "--extent-size", "1G")
    c.qbd("stop")
    extents = os.path.join(c.dir, "data", "replica-1", "extents")
    have, want = len(os.listdir(extents)), WRITES * 65536 // GIB + 24
    for n in range(have, want):
        with open(os.path.join(extents, f"{n:05d}"), "wb") as f:
            f.truncate(GIB)
        os.chmod(f.name, 0o600)
    uri = c.start()
    begin = time.monotonic()
    run(fio(t, uri, f"--number_ios={WRITES}"), timeout=7200, cwd=t.dir)
    say(f"{WRITES} scattered writes in {time.monotonic() - begin:.0f} s")
    used = store(c)
    mapped = (used["slabs_total"] - used["slabs_free"]) * 65536 / GIB
    figures = {"writes": WRITES, "mapped_gib": round(mapped, 1), "restart_s": [], "attach_s": [], "rss_mib": [round(rss(c, "replica-1"))], "leaf_cache_mib": [], "overlay_mib": []}
    for _ in range(ROUNDS):
        load = t.popen(fio(t, uri, "--time_based", "--runtime=60"), stdout=open(t.path("fio.out"), "w"), stderr=open(t.path("fio.err"), "w"), cwd=t.dir)
        time.sleep(12)
        s = store(c)
        figures["leaf_cache_mib"].append(s["leaf_cache_bytes"] >> 20)
        figures["overlay_mib"].append(s["overlay_bytes"] >> 20)
        c.kill("all")
        load.kill()
        load.wait()
        begin = time.monotonic()
        c.restart("replica-1")
        wait_until("it is up", lambda: (c.component("replica-1").get("status") or {}).get("state") == "up", 60, 0.02)
        figures["restart_s"].append(round(time.monotonic() - begin, 2))
        wal = store(c)["wal"]
        figures.setdefault("redo_mib", []).append((wal["head_lsn"] - wal["redo_lsn"]) >> 20)
        time.sleep(2.5)  # the dead front end's lease
        begin = time.monotonic()
        c.restart("nbdserver-1")
        wait_until("it is attached", lambda: nbd_go(socket_path(uri), "vol0", 2)[0], 30, 0.01)
        figures["attach_s"].append(round(time.monotonic() - begin, 2))
        figures["rss_mib"].append(round(rss(c, "replica-1")))
    say(f"mapped {mapped:.0f} GiB: restart {figures['restart_s']} s, attach {figures['attach_s']} s, RSS {figures['rss_mib']} MiB")
    print(json.dumps({"large_bench": figures}), flush=True)
    require(max(figures["restart_s"]) < 60, "a restart takes a minute")


main(scenario)
