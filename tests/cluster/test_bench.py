#!/usr/bin/python3
"""qbd bench against real daemons: what it refuses, what it reports, and its proof: everything is killed in the middle of a load and every acknowledged write is there; what is not there, it finds."""
import json
import os
import pty
import re
import signal
import struct
import subprocess
import time

import nbd

from qbdtest import BIN, BLOCK, MIB, SCALE, main, require, run, say, wait_until

QBD = os.path.join(BIN, "qbd")
SIZE = 64 * MIB


def bench(*args, check=True):
    return run([QBD, "bench", *map(str, args)], check=check, timeout=120)


def report(*args):
    return json.loads(bench("--json", "--quiet", *args).stdout)


def refused(words, *args):
    r = bench(*args, check=False)
    require(r.returncode == 1 and words in r.stderr and len(r.stderr.strip().splitlines()) == 1 and not r.stdout,
            f"{args}: {r.returncode} {r.stdout} {r.stderr}")


def acked(journal):
    try:
        with open(journal, "rb") as f:
            f.seek(72)
            b = f.read(8)
            return struct.unpack("<Q", b)[0] if len(b) == 8 else 0
    except FileNotFoundError:
        return 0


def wrong_command_lines(t, c, uri):
    refused("say what to load")
    refused("not both", uri, "--dir", c.dir)
    refused("a URI names its export", uri, "--volume", "vol0")
    refused("no volume nix", "--dir", c.dir, "--volume", "nix")
    refused("holds no local cluster", "--dir", t.dir)
    refused("cannot connect", "nbd+unix:///vol0?socket=/nowhere")
    refused("cannot connect", "nonsense://x")
    refused("--workload is", uri, "--workload", "nonsense")
    refused("--block-size", uri, "--block-size", "33M")
    refused("is a number", uri, "--depth", "0")
    refused("is a number", uri, "--runtime", "0")
    refused("is not in it", uri, "--offset", "1G")
    refused("is not in it", uri, "--offset", "255M", "--size", "2M")
    refused("needs --journal", uri, "--workload", "write", "--verify")
    refused("needs --journal", uri, "--check")
    refused("makes no load", uri, "--check", "--journal", "j", "--depth", "3")
    refused("writes nothing", uri, "--fua")
    refused("is about writes", uri, "--verify", "--journal", "j")
    refused("for --workload mixed", uri, "--read-percent", "5")
    refused("one of them", uri, "--workload", "write", "--flush", "--fua")
    refused("multiples of it", uri, "--workload", "write", "--overwrite", "--verify", "--journal", t.path("x"), "--block-size", "512")
    refused("too few", uri, "--workload", "write", "--overwrite", "--verify", "--journal", t.path("x"), "--size", "64K")
    require(not os.path.exists(t.path("x")), "a refused run left a journal")
    refused("cannot open", "--check", "--journal", t.path("x"))
    refused("is no journal", "--check", "--journal", c.config())


def consent(uri):
    """Nothing is written without it, and it is said what there is."""
    zeroes = [uri, "--workload", "write", "--runtime", 1]
    refused("of 64 blocks looked at there 0 hold data", *zeroes)
    run(["qemu-io", "-f", "raw", "-c", "write -P 0x53 1080 1", "-c", "write -P 0xef 1081 1", uri])
    refused("an ext2/3/4 file system", *zeroes)
    refused("16 MiB of", *zeroes, "--offset", "32M", "--size", "16M")
    data = run(["qemu-io", "-f", "raw", "-c", "read -P 0 32M 16M", uri]).stdout
    require("verification failed" not in data, "a refused load wrote")


def check_side(r, name, n=None):
    s = r[name]
    x = s["latency_us"]
    require(0 < x["min"] <= x["p50"] <= x["p90"] <= x["p99"] <= x["p99.9"] <= x["max"] and x["min"] <= x["mean"] <= x["max"], f"{name}: {x}")
    require(sum(k for _, k in s["histogram_us"]) == s["ops"] and (n is None or s["ops"] == n), f"{name}: {s['ops']} requests, {n} wanted")
    require(s["histogram_us"][-1][0] == x["max"], "the last bucket ends with the longest wait")


def reports(t, c, uri):
    r = report(uri, "--ops", 500)
    check_side(r, "read", 500)
    require("write" not in r and r["depth"] == 32 and r["block_bytes"] == 4096 and r["lost"] == r["unanswered"] == 0, str(r)[:300])
    r = report("--dir", c.dir, "--workload", "mixed", "--overwrite", "--ops", 2000, "--connections", 3, "--depth", 5, "--flush")
    require(r["read"]["ops"] + r["write"]["ops"] == 2000 and 1200 < r["read"]["ops"] < 1600, f"70/30 gave {r['read']['ops']}")
    check_side(r, "read")
    check_side(r, "write")
    check_side(r, "flush", r["write"]["ops"])
    check_side(report(uri, "--workload", "write", "--overwrite", "--fua", "--ops", 100, "--block-size", 512, "--depth", 1), "write", 100)
    check_side(report(uri, "--workload", "seq-write", "--overwrite", "--ops", 40, "--size", "16M"), "write", 40)  # round and round
    check_side(report(uri, "--workload", "seq-read", "--ops", 40), "read", 40)
    began = time.monotonic()
    r = report(uri, "--rate", 200, "--ops", 200)
    took = time.monotonic() - began
    require(took > 0.99, f"200 requests at 200 a second took {took:.2f} s")
    r = bench(uri, "--runtime", "1.5", "--workload", "write", "--overwrite")
    require(re.search(r"^write +\d+ ", r.stdout, re.M) and "write latency" in r.stdout and "####" in r.stdout, r.stdout)
    require(re.search(r"^ +1 s +\d+ /s .*under way$", r.stderr, re.M) and "\033" not in r.stderr and "\r" not in r.stderr, repr(r.stderr))
    require(not bench(uri, "--quiet", "--ops", 10).stderr, "--quiet says something")
    ours, theirs = pty.openpty()
    require(t.popen([QBD, "bench", uri, "--runtime", "2.5"], stdout=subprocess.DEVNULL, stderr=theirs).wait() == 0, "on a terminal it fails")
    seen = os.read(ours, 65536).decode()
    require(seen.startswith("\r\033[K    1 s ") and "\n" not in seen and seen.endswith("\r\033[K"), f"on a terminal: {seen!r}")
    os.close(ours)
    os.close(theirs)


def ends_on_a_signal(t, uri):
    p = t.popen([QBD, "bench", uri, "--runtime", "1000", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stderr.readline()
    p.send_signal(signal.SIGINT)
    out, _ = p.communicate(timeout=30 * SCALE)
    require(p.returncode == 0 and json.loads(out)["interrupted"], f"SIGINT: {p.returncode}")


def verifying(t, uri, journal, *args):
    p = t.popen([QBD, "bench", uri, "--overwrite", "--verify", "--journal", journal, "--size", str(SIZE), "--runtime", "600", "--quiet", "--json", *map(str, args)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return p


def progress(p, journal, more):
    target = acked(journal) + more

    def enough():
        require(p.poll() is None, f"the load ended: {p.stderr.read() if p.poll() is not None else ''}")
        return acked(journal) >= target
    wait_until(f"{more} more acknowledged writes", enough, 60, 0.01)


def proof(journal, *args, good=True):
    r = bench("--check", "--journal", journal, "--json", *args, check=False)
    require(r.returncode == (0 if good else 1), f"--check: {r.returncode} {r.stdout} {r.stderr}")
    j = json.loads(r.stdout)
    require(j["good"] == good and j["blocks_read"] == SIZE // BLOCK, str(j))
    say(f"{'good' if good else 'not good, as it must be'}: {j}")
    return j, r.stderr


def kill_everything(t, c, uri):
    """The load dies with its connection, and the journal tells what was acknowledged."""
    journal = t.path("journal-1")
    p = verifying(t, uri, journal, "--workload", "mixed", "--connections", 2)
    progress(p, journal, 2000)
    c.kill("all")
    out, err = p.communicate(timeout=60 * SCALE)
    r = json.loads(out)
    require(p.returncode == 1 and "connection is lost" in err and "connection is lost" in r["error"] and r["lost"] > 0, f"{p.returncode} {err} {out[-500:]}")
    require(r["write"]["ops"] == acked(journal), f"{r['write']['ops']} reported, {acked(journal)} in the journal")
    refused("cannot connect", "--check", "--journal", journal)  # by the URI in the journal
    c.start()
    j, _ = proof(journal)
    require(j["acknowledged_writes"] == acked(journal) and j["positions_unanswered"] > 0, str(j))
    refused("exists", uri, "--workload", "write", "--overwrite", "--verify", "--journal", journal)


def survive(t, c, uri):
    """The replicas die alone (requests wait), then everything (it reconnects), then the load itself is killed."""
    journal = t.path("journal-2")
    p = verifying(t, uri, journal, "--workload", "mixed", "--block-size", "16K", "--depth", 8, "--reconnect", int(60 * SCALE))
    for _ in range(2):
        progress(p, journal, 500)
        for n in (1, 2, 3):
            c.kill(f"replica-{n}")
        for n in (1, 2, 3):
            c.restart(f"replica-{n}")
    progress(p, journal, 500)
    c.kill("all")
    c.start()
    progress(p, journal, 500)
    p.kill()
    p.wait()
    c.kill("all")
    c.start()
    proof(journal)
    # And an ordinary end, the journal on disk before a write counts.
    journal = t.path("journal-3")
    r = json.loads(bench(uri, "--workload", "write", "--overwrite", "--verify", "--journal", journal, "--journal-sync", "--size", SIZE, "--ops", 1000, "--json", "--quiet").stdout)
    require(r["write"]["ops"] == acked(journal) == 1000, "all are acknowledged")
    j, _ = proof(journal)
    require(j["positions_unanswered"] == 0, str(j))
    return journal


def first_position(journal):
    with open(journal, "rb") as f:
        data = f.read()[4096:]
    return next(i for i in range(len(data) // 16) if struct.unpack_from("<QQ", data, 16 * i)[1])


def finds_what_is_wrong(t, uri, journal):
    """A check that finds nothing where something is lost is worth nothing."""
    at = first_position(journal) * BLOCK
    h = nbd.NBD()
    h.connect_uri(uri)
    block = bytes(h.pread(BLOCK, at))
    for data, words in ((bytes(BLOCK), "it holds zeroes"), (b"x" * BLOCK, "no write of this run"), (block[:512] + bytes(BLOCK - 512), "damaged"),
                        (block[:-1] + bytes([block[-1] ^ 1]), "damaged")):
        h.pwrite(data, at)
        j, err = proof(journal, uri, good=False)
        require(j["blocks_wrong"] == 1 and f"byte {at}:" in err and words in err, f"{j} {err}")
    h.pwrite(block, at)
    proof(journal, uri)
    before = bytes(h.pread(BLOCK, SIZE - BLOCK))
    h.pwrite(block, SIZE - BLOCK)  # a write that went astray
    _, err = proof(journal, uri, good=False)
    require(f"byte {SIZE - BLOCK}:" in err and f"of address {at}" in err, err)
    h.pwrite(before, SIZE - BLOCK)
    # A write that is there, but not the last one that was acknowledged there.
    with open(journal, "r+b") as f:
        f.seek(4096 + 16 * (at // BLOCK))
        _, last = struct.unpack("<QQ", f.read(16))
        f.seek(4096 + 16 * (at // BLOCK))
        f.write(struct.pack("<QQ", 10**6, 10**6))
    _, err = proof(journal, uri, good=False)
    require(f"write 1000000 was acknowledged, and it holds write {last}" in err, err)
    h.shutdown()


def scenario(t):
    c = t.cluster()
    uri = c.small()
    wrong_command_lines(t, c, uri)
    consent(uri)
    reports(t, c, uri)
    say("reports are good")
    ends_on_a_signal(t, uri)
    kill_everything(t, c, uri)
    journal = survive(t, c, uri)
    finds_what_is_wrong(t, uri, journal)


main(scenario)
