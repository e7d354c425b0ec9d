#!/usr/bin/python3
"""Real NBD clients against an export: libnbd, nbdinfo, nbdcopy, qemu-img, qemu-io, fio.

    check_clients.py --uri URI [CHECK ...]             against whatever serves URI (its contents are destroyed)
    check_clients.py --server BINARY [--tcp] [CHECK ...]  against a nbd_memory_server that is started here
    check_clients.py --list

The export must be at least 64 MiB large and writable. Each check prints one line: ok, SKIP with the reason, or FAIL with what differed. Exit status: 0 all
that ran passed, 1 something failed, 77 nothing ran (a client that is asked for is missing)."""

import argparse
import errno
import json
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

os.environ["LC_ALL"] = "C.UTF-8"  # export names are UTF-8; a machine with no locale set shows and reads them as bytes

MIB = 1 << 20
CHECKS = []


class Skip(Exception):
    pass


def check(f):
    CHECKS.append(f)
    return f


def need(*programs):
    for p in programs:
        if not shutil.which(p):
            raise Skip(f"{p} is not installed")


def libnbd():
    try:
        import nbd
    except ImportError:
        raise Skip("python3-libnbd is not installed")
    return nbd


def run(*argv, timeout=300, **kw):
    p = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, **kw)
    if p.returncode != 0:
        raise AssertionError(f"{' '.join(argv)}: exit status {p.returncode}\n{p.stdout}{p.stderr}")
    return p.stdout


def connect(c, structured=True, strict=True):
    nbd = libnbd()
    h = nbd.NBD()
    if not structured:
        h.set_request_structured_replies(False)
    if not strict:
        h.set_strict_mode(0)
    h.connect_uri(c.uri)
    return h


class Context:
    """What a check is given: where the export is, a directory for files, and dice."""

    def __init__(self, uri, tmp, server=None):
        self.uri = uri
        self.tmp = tmp
        self.server = server
        self.rng = random.Random(1)

    def path(self, name):
        return os.path.join(self.tmp, name)

    def address(self):
        """(family, address, export name) of the URI, for a socket of our own."""
        from urllib.parse import urlparse, parse_qs, unquote
        u = urlparse(self.uri)
        name = unquote(u.path.lstrip("/"))
        if "unix" in u.scheme:
            return socket.AF_UNIX, parse_qs(u.query)["socket"][0], name
        return socket.AF_INET, (u.hostname, u.port or 10809), name


# ---- nbdinfo ----


@check
def nbdinfo(c):
    """sizes, flags and lists as nbdinfo shows them"""
    need("nbdinfo")
    e = json.loads(run("nbdinfo", "--json", c.uri))["exports"][0]
    want = {
        "can_cache": False, "can_df": True, "can_fast_zero": True, "can_flush": True, "can_fua": True, "can_multi_conn": True,
        "can_trim": True, "can_zero": True, "is_read_only": False, "is_rotational": False,
        "block_size_minimum": 1, "block_size_preferred": 4096, "block_size_maximum": 32 * MIB,
    }
    for key, value in want.items():
        assert e.get(key) == value, f"{key} is {e.get(key)}, not {value}"
    assert e["export-size"] >= 64 * MIB, "the export is too small for these checks"
    all_exports = json.loads(run("nbdinfo", "--list", "--json", c.uri))["exports"]
    assert c.address()[2] in [x["export-name"] for x in all_exports] + [""], "the export is not listed"
    assert run("nbdinfo", "--size", c.uri).strip() == str(e["export-size"])


# ---- libnbd ----


@check
def options(c):
    """option mode: list, info, go, abort, an unknown name"""
    nbd = libnbd()
    family, address, name = c.address()

    def handle():
        h = nbd.NBD()
        h.set_opt_mode(True)
        h.connect_unix(address) if family == socket.AF_UNIX else h.connect_tcp(address[0], str(address[1]))
        return h

    h = handle()
    names = []
    n = h.opt_list(lambda export, description: names.append(export))
    assert n == len(names) and (name == "" or name in names), names
    h.set_export_name("no such export \u00e9")
    try:
        h.opt_info()
    except nbd.Error:
        pass
    else:
        raise AssertionError("an unknown export was described")
    h.set_export_name(name)
    h.opt_info()
    size, flags = h.get_size(), (h.can_fua(), h.can_df(), h.can_multi_conn())
    h.opt_go()
    assert (h.get_size(), (h.can_fua(), h.can_df(), h.can_multi_conn())) == (size, flags)
    h.pread(1, 0)
    h.shutdown()
    h = handle()
    h.opt_abort()


@check
def oldest_client(c):
    """client flags 0, EXPORT_NAME, simple replies: what a client of 2011 does"""
    family, address, name = c.address()
    s = socket.socket(family)
    s.settimeout(30)
    s.connect(address)

    def take(n):
        b = b""
        while len(b) < n:
            k = s.recv(n - len(b))
            assert k, f"the server closed after {len(b)} of {n} bytes"
            b += k
        return b

    assert take(18) == b"NBDMAGICIHAVEOPT\0\3"
    s.sendall(struct.pack(">I", 0) + b"IHAVEOPT" + struct.pack(">II", 1, len(name.encode())) + name.encode())
    size, flags = struct.unpack(">QH", take(10))
    assert size >= 64 * MIB and flags & 1 and not flags & 0x80
    assert take(124) == bytes(124)
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 5, 1000, 5) + b"hello")
    assert take(16) == struct.pack(">IIQ", 0x67446698, 0, 5)
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 0, 6, 999, 7))
    assert take(16) == struct.pack(">IIQ", 0x67446698, 0, 6)
    assert take(7)[1:6] == b"hello"
    s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 7, 0, 0))
    assert s.recv(1) == b"", "something was answered to DISC"


def read_write(c, structured):
    nbd = libnbd()
    h = connect(c, structured)
    assert h.get_structured_replies_negotiated() == structured
    assert h.can_df() == structured
    model = bytearray(h.pread(48 * MIB // 2, 0) + h.pread(48 * MIB // 2, 24 * MIB))
    sizes = [1, 2, 511, 512, 513, 4095, 4096, 4097, 65536, MIB - 1, MIB, MIB + 1, 5 * MIB + 3]
    for i in range(150):
        n = c.rng.choice(sizes)
        off = c.rng.choice([0, 1, 4095, 4096, MIB - 1, MIB]) + c.rng.randrange(0, 32) * MIB
        what = c.rng.choice(["write", "write", "zero", "read", "read"])
        fua = c.rng.choice([0, nbd.CMD_FLAG_FUA])
        if what == "write":
            data = c.rng.randbytes(n)
            h.pwrite(data, off, fua)
            model[off:off + n] = data
        elif what == "zero":
            h.zero(n, off, fua | c.rng.choice([0, nbd.CMD_FLAG_NO_HOLE]) | c.rng.choice([0, nbd.CMD_FLAG_FAST_ZERO]))
            model[off:off + n] = bytes(n)
        else:
            flags = nbd.CMD_FLAG_DF if structured and c.rng.random() < 0.5 else 0
            assert h.pread_structured(n, off, lambda *a: None, flags) == model[off:off + n], f"read of {n} at {off} differs"
    h.flush()
    for off in range(0, 48 * MIB, 16 * MIB):
        assert h.pread(16 * MIB, off) == model[off:off + 16 * MIB], f"the 16 MiB at {off} differ"
    h.shutdown()
    h = connect(c, structured)
    assert h.pread(32 * MIB, 0) == model[:32 * MIB], "after reconnecting it differs"
    h.shutdown()


@check
def read_write_structured(c):
    """sizes and offsets of every alignment against a model, structured replies, DF"""
    read_write(c, True)


@check
def read_write_simple(c):
    """the same with simple replies, as the kernel's client does"""
    read_write(c, False)


@check
def largest(c):
    """32 MiB in one request, at an odd offset, each way"""
    nbd = libnbd()
    h = connect(c)
    data = c.rng.randbytes(32 * MIB)
    h.pwrite(data, 4321)
    assert h.pread(32 * MIB, 4321) == data
    assert h.pread_structured(32 * MIB, 4321, lambda *a: None, nbd.CMD_FLAG_DF) == data
    h.zero(h.get_size(), 0)
    assert h.pread(32 * MIB, 0) == bytes(32 * MIB)
    h.pwrite(b"x" * 100, h.get_size() - 100)
    h.trim(h.get_size() - 4096, 0)
    assert h.pread(100, h.get_size() - 100) == b"x" * 100, "a trim went too far"
    h.shutdown()


@check
def errors(c):
    """what must be refused is refused with the right error, and the connection goes on"""
    nbd = libnbd()
    for structured in (True, False):
        h = connect(c, structured, strict=False)
        size = h.get_size()

        def fails(name, want, f):
            try:
                f()
            except nbd.Error as e:
                assert e.errnum == want, f"{name}: {errno.errorcode.get(e.errnum, e.errnum)} instead of {errno.errorcode[want]}"
            else:
                raise AssertionError(f"{name} succeeded")
            h.pread(1, 0)

        fails("read beyond the end", errno.EINVAL, lambda: h.pread(2, size - 1))
        fails("write beyond the end", errno.ENOSPC, lambda: h.pwrite(b"xy", size - 1))
        fails("trim beyond the end", errno.EINVAL, lambda: h.trim(2, size - 1))
        fails("zero beyond the end", errno.ENOSPC, lambda: h.zero(2, size - 1))
        fails("cache", errno.EINVAL, lambda: h.cache(4096, 0))
        fails("unknown flag on write", errno.EINVAL, lambda: h.pwrite(b"abc", 0, nbd.CMD_FLAG_NO_HOLE))
        fails("unknown flag on trim", errno.EINVAL, lambda: h.trim(512, 0, nbd.CMD_FLAG_FAST_ZERO))
        if not structured:
            fails("DF without structured replies", errno.EINVAL, lambda: h.pread_structured(512, 0, lambda *a: None, nbd.CMD_FLAG_DF))
        h.pread(0, 0)
        h.pwrite(b"", 0)
        h.trim(0, 0)
        h.zero(0, 0)
        h.flush()
        h.shutdown()


def retire(h, n):
    """Waits until n requests are answered; their cookies in the order of the answers."""
    done = []
    while len(done) < n:
        k = h.aio_peek_command_completed()
        if k > 0:
            assert h.aio_command_completed(k)
            done.append(k)
        else:
            h.poll(-1)
    return done


@check
def in_flight(c):
    """hundreds of requests at once, each to its own bytes, answered in any order"""
    nbd = libnbd()
    h = connect(c)
    n, unit = 600, 32 * 1024 + 512
    data = [c.rng.randbytes(c.rng.choice([512, 4096, unit])) for _ in range(n)]
    bufs = [nbd.Buffer.from_bytearray(bytearray(d)) for d in data]
    cookies = [h.aio_pwrite(b, i * unit) for i, b in enumerate(bufs)]
    assert sorted(retire(h, n)) == sorted(cookies)
    order = list(range(n))
    c.rng.shuffle(order)
    back = {i: nbd.Buffer(len(data[i])) for i in order}
    for i in order:
        h.aio_pread(back[i], i * unit)
    retire(h, n)
    for i in order:
        assert bytes(back[i].to_bytearray()) == data[i], f"bytes of request {i} differ"
    h.shutdown()


@check
def many_connections(c):
    """CAN_MULTI_CONN: what was answered on one connection is what any other reads, FUA and FLUSH included"""
    nbd = libnbd()
    hs = [connect(c) for _ in range(8)]
    for i in range(200):
        a, b = c.rng.sample(hs, 2)
        off, data = c.rng.randrange(0, 16 * MIB), c.rng.randbytes(c.rng.choice([1, 4096, 70000]))
        a.pwrite(data, off, c.rng.choice([0, nbd.CMD_FLAG_FUA]))
        if i % 10 == 0:
            a.flush()
        assert b.pread(len(data), off) == data, f"another connection reads something else at {off}"
    for h in hs:
        h.shutdown()


@check
def vanishing_clients(c):
    """clients that die with requests and half a payload under way; the server goes on"""
    nbd = libnbd()
    family, address, name = c.address()
    witness = connect(c)
    for i in range(30):
        h = connect(c)
        bufs = [nbd.Buffer.from_bytearray(bytearray(c.rng.randbytes(MIB))) for _ in range(4)]
        cookies = [h.aio_pwrite(b, 32 * MIB + k * MIB) for k, b in enumerate(bufs)] + [h.aio_pread(nbd.Buffer(MIB), 0) for _ in range(8)]
        for _ in range(c.rng.randrange(6)):
            h.poll(0)
        s = socket.socket(fileno=os.dup(h.aio_get_fd()))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        del h, cookies, s
        witness.pwrite(struct.pack(">I", i), 0)
        assert witness.pread(4, 0) == struct.pack(">I", i)
    witness.shutdown()


@check
def garbage(c):
    """random bytes end that connection alone"""
    family, address, name = c.address()
    witness = connect(c)
    for i in range(60):
        s = socket.socket(family)
        s.connect(address)
        try:
            if i % 2:
                s.sendall(struct.pack(">I", 3))
            s.sendall(c.rng.randbytes(c.rng.choice([1, 100, 70000])))
            s.shutdown(socket.SHUT_WR)
            s.settimeout(30)
            while s.recv(65536):
                pass
        except OSError as e:
            assert e.errno in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN), e
        s.close()
        witness.pread(512, 0)
    witness.shutdown()


# ---- copying tools ----


def image(c, size):
    """a file with data and holes"""
    p = c.path("image")
    with open(p, "wb") as f:
        for off in range(0, size, 4 * MIB):
            f.seek(off)
            f.write(c.rng.randbytes(c.rng.choice([0, 1 * MIB, 3 * MIB])))
        f.truncate(size)
    return p


def export_size(c):
    need("nbdinfo")
    return int(run("nbdinfo", "--size", c.uri))


@check
def nbdcopy(c):
    """nbdcopy there and back, byte for byte, over several connections"""
    need("nbdcopy", "cmp")
    size = export_size(c)
    src, back = image(c, size), c.path("back")
    for extra in ([], ["--synchronous"], ["--request-size=33554432", "--connections=4"]):
        run("nbdcopy", *extra, src, c.uri)
        if os.path.exists(back):
            os.remove(back)
        run("nbdcopy", *extra, c.uri, back)
        run("cmp", src, back)


@check
def qemu_img(c):
    """qemu-img info, convert, compare"""
    need("qemu-img")
    size = export_size(c)
    src = image(c, size)
    assert json.loads(run("qemu-img", "info", "--output=json", c.uri))["virtual-size"] in range(size, size + 512)
    size512 = size & ~511
    os.truncate(src, size512)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", src, c.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", src, c.uri)
    back = c.path("back.qcow2")
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", c.uri, back)
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", back, c.uri)


@check
def qemu_io(c):
    """qemu-io: patterns, zeroes, discard, flush, queued requests"""
    need("qemu-io")
    run("qemu-io", "-f", "raw", "-t", "none", c.uri, *sum([["-c", x] for x in (
        "write -P 0xaa 0 8M", "write -P 0xbb 4095 2", "write -f -P 0xcc 1M 64k", "write -z 2M 1M", "write -z -u 3M 1M", "flush", "discard 4M 1M",
        "read -P 0xaa 0 4095", "read -P 0xbb 4095 2", "read -P 0xaa 4097 1044479", "read -P 0xcc 1M 64k", "read -P 0 2M 2M", "read -P 0xaa 5M 3M",
        "aio_write -P 0x11 16M 1M", "aio_write -P 0x22 17M 1M", "aio_write -z 18M 1M", "aio_flush",
        "read -P 0x11 16M 1M", "read -P 0x22 17M 1M", "read -P 0 18M 1M")], []))


@check
def fio_verify(c):
    """fio: random reads and writes of any size with CRC verification"""
    need("fio")
    if "nbd" not in run("fio", "--enghelp"):
        raise Skip("fio has no nbd engine")
    for rw, bs in (("randwrite", "4k"), ("randrw", "512-96k"), ("write", "1m")):
        run("fio", "--name=verify", "--ioengine=nbd", f"--uri={c.uri}", "--size=24m", f"--rw={rw}", *(["--bs=" + bs] if "-" not in bs else ["--bsrange=" + bs, "--bs_unaligned=1"]),
            "--iodepth=32", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7", "--verify_backlog=64", "--group_reporting")


# ---- the memory server ----


class MemoryServer:
    def __init__(self, binary, tmp, tcp):
        listen = "127.0.0.1:0" if tcp else "unix:" + os.path.join(tmp, "nbd.sock")
        self.log = open(os.path.join(tmp, "server.log"), "w+")
        self.p = subprocess.Popen([binary, listen, str(96 * MIB + 512), "300"], stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.p.stdout.readline().split()
        if len(line) != 2 or line[0] != "ready":
            self.p.wait()
            self.log.seek(0)
            raise RuntimeError("the server did not start: " + self.log.read())
        self.uri = f"nbd://{line[1]}/memory" if tcp else f"nbd+unix:///memory?socket={line[1].removeprefix('unix:')}"

    def stop(self):
        """Its own exit status says whether anything leaked."""
        self.p.send_signal(signal.SIGTERM)
        try:
            status = self.p.wait(30)
        except subprocess.TimeoutExpired:
            self.p.kill()
            status = "a hang in shutdown"
        self.log.seek(0)
        return status, self.log.read()


def run_checks(selected, c):
    counts = {"ok": 0, "SKIP": 0, "FAIL": 0}
    for f in selected:
        before, what, why = time.monotonic(), "ok", ""
        try:
            f(c)
        except Skip as e:
            what, why = "SKIP", f": {e}"
        except Exception as e:
            what, why = "FAIL", f": {type(e).__name__}: {e}\n{traceback.format_exc()}"
        counts[what] += 1
        print(f"{what:4} {f.__name__:22} {time.monotonic() - before:6.2f} s  {f.__doc__}{why}", flush=True)
    return counts


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--uri")
    ap.add_argument("--server")
    ap.add_argument("--tcp", action="store_true")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("checks", nargs="*")
    a = ap.parse_args()
    by_name = {f.__name__: f for f in CHECKS}
    if a.list:
        for f in CHECKS:
            print(f.__name__)
        return 0
    if bool(a.uri) == bool(a.server):
        ap.error("either --uri or --server")
    for name in a.checks:
        if name not in by_name:
            ap.error(f"no such check: {name}")
    selected = [by_name[name] for name in a.checks] or CHECKS
    with tempfile.TemporaryDirectory(prefix="qbd-nbd-") as tmp:
        server = MemoryServer(a.server, tmp, a.tcp) if a.server else None
        counts = run_checks(selected, Context(server.uri if server else a.uri, tmp, server))
        if server:
            status, log = server.stop()
            if status != 0:
                counts["FAIL"] += 1
                print(f"FAIL the server ended with {status}:\n{log[-5000:]}")
    if counts["FAIL"]:
        return 1
    return 0 if counts["ok"] else 77


if __name__ == "__main__":
    sys.exit(main())
