#!/usr/bin/python3
"""A 4 TiB thin volume with scattered data behind it, a 1 GiB log: attach, restart after kill -9 under load when the replica lets nothing in any more, memory. (Aims: attach < 1 s, restart < 5 s, RSS <= 128 MiB + caches.)

One replica, because three would need three times the disk: what is measured is a replica's own. Its extent files are made sparse beforehand; each 4 KiB write takes a slab of 64 KiB, evenly all over the volume, so QBD_WRITES=8000000
gives the map of 488 GiB. That fits on 60 GiB of disk where the file system cannot preallocate (ext3, say on a loop device); elsewhere extents are preallocated as they are taken into use. Default: 500000 (30 GiB).
Prints the figures and a JSON line."""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "cluster"))

from qbdtest import fio, main, nbd_go, require, run, say, socket_path, wait_until  # noqa: E402

WRITES = int(os.environ.get("QBD_WRITES", "500000"))
ROUNDS = 3
GIB = 1 << 30
SIZE = 4096 * GIB


def rss(c, name):
    with open(f"/proc/{c.pid(name)}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("VmRSS:")) / 1024


def writes(uri, *args):
    return fio(uri, "w", "--bs=4k", "--iodepth=64", "--size=4T", *args)


def store(c):
    return c.component("replica-1")["status"]["store"]


def wal_mib(c, since):
    w = store(c)["wal"]
    return (w["head_lsn"] - w[since]) >> 20


def wait_until_held_back(c, figures):
    """Until the replica lets nothing in any more: the log's ring is full, or what is applied and not written back yet is all that it may be (the latter comes first with small writes)."""
    wait_until("nothing is let in any more", lambda: wal_mib(c, "tail_lsn") >= 900 or store(c)["overlay_bytes"] >> 20 >= 250, 120, 0.02)
    s = store(c)
    figures["log_mib"].append(wal_mib(c, "tail_lsn"))
    figures["redo_mib"].append(wal_mib(c, "redo_lsn"))
    figures["leaf_cache_mib"].append(s["leaf_cache_bytes"] >> 20)
    figures["overlay_mib"].append(s["overlay_bytes"] >> 20)


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
    run(writes(uri, f"--rw=write:{(SIZE // WRITES & ~4095) - 4096}", f"--number_ios={WRITES}"), timeout=7200, cwd=t.dir)
    say(f"{WRITES} scattered writes in {time.monotonic() - begin:.0f} s")
    used = store(c)
    mapped = (used["slabs_total"] - used["slabs_free"]) * 65536 / GIB
    figures = {"writes": WRITES, "mapped_gib": round(mapped, 1), "rss_mib": [round(rss(c, "replica-1"))],
               **{k: [] for k in ("log_mib", "redo_mib", "leaf_cache_mib", "overlay_mib", "restart_s", "attach_s")}}
    for _ in range(ROUNDS):
        load = t.popen(writes(uri, "--rw=randwrite", "--norandommap", "--randrepeat=0", "--random_generator=tausworthe64", "--time_based", "--runtime=120"),
                       stdout=open(t.path("fio.out"), "w"), stderr=open(t.path("fio.err"), "w"), cwd=t.dir)
        wait_until_held_back(c, figures)
        figures["rss_mib"].append(round(rss(c, "replica-1")))
        c.kill("all")
        load.kill()
        load.wait()
        begin = time.monotonic()
        c.restart("replica-1")
        wait_until("it is up", lambda: (c.component("replica-1").get("status") or {}).get("state") == "up", 60, 0.02)
        figures["restart_s"].append(round(time.monotonic() - begin, 2))
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
