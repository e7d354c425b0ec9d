"""A throw-away virtual machine with a real Linux kernel and its nbd driver, for machines whose own kernel has none.

The kernel is Debian's cloud image, downloaded and unpacked (nothing is installed) into a cache directory; the root file system is an initramfs of busybox, the nbd driver and
the few programs that a test names. Two virtio-serial ports lead out: "log" for the guest's words, "control" on which it asks the host for things and waits for the answer."""
import glob
import gzip
import os
import re
import shutil
import socket
import subprocess
import time

from qbdtest import SCALE, Failure, require, say

MODULES = ["virtio_pci", "virtio_net", "virtio_console", "crc32c-intel", "nbd"]
BOOT_SECONDS = 60
LZ4_LEGACY_MAGIC = b"\x02\x21\x4c\x18"


def output(argv, **kw):
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, **kw).stdout


class Kernel:
    """vmlinux and modules, from the cache or from the distribution's package."""

    def __init__(self, cache):
        os.makedirs(cache, exist_ok=True)
        self.cache = cache
        found = glob.glob(os.path.join(cache, "vmlinux-*"))
        self.vmlinux = found[0] if found else self.fetch()
        self.version = os.path.basename(self.vmlinux).removeprefix("vmlinux-")
        self.modules = {}
        for path in glob.glob(os.path.join(cache, "root/lib/modules", self.version, "**/*.ko"), recursive=True):
            self.modules[os.path.basename(path)[:-3].replace("-", "_")] = path

    def fetch(self):
        depends = output(["apt-cache", "depends", "linux-image-cloud-amd64"])
        package = re.search(r"Depends: (linux-image-\S+)", depends)
        require(package, "apt does not know linux-image-cloud-amd64 (apt-get update)")
        say(f"downloading {package[1]}")
        root = os.path.join(self.cache, "root")
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["apt-get", "-q", "download", package[1]], cwd=self.cache, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deb = glob.glob(os.path.join(self.cache, package[1] + "_*.deb"))[0]
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
        os.unlink(deb)
        vmlinuz = glob.glob(os.path.join(root, "boot/vmlinuz-*"))[0]
        return self.uncompress(vmlinuz)

    def uncompress(self, vmlinuz):
        """qemu starts an uncompressed kernel at once; emulating the decompressor takes longer than booting."""
        with open(vmlinuz, "rb") as f:
            image = f.read()
        at = image.find(LZ4_LEGACY_MAGIC)
        require(at > 0, f"{vmlinuz} is not compressed with lz4")
        to = os.path.join(self.cache, "vmlinux-" + os.path.basename(vmlinuz).removeprefix("vmlinuz-"))
        # Something follows the stream; lz4 complains about it after it has written everything.
        r = subprocess.run(["lz4", "-dc"], input=image[at:], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        require(r.stdout.startswith(b"\x7fELF"), "the kernel did not unpack")
        with open(to + ".new", "wb") as f:
            f.write(r.stdout)
        os.rename(to + ".new", to)
        return to

    def with_dependencies(self, names):
        """Paths in the order in which to insert them. What is built in is no file."""
        done = []

        def add(name):
            path = self.modules.get(name.replace("-", "_"))
            if not path or path in done:
                return
            with open(path, "rb") as f:
                found = re.search(rb"\0depends=([^\0]*)\0", f.read())
            for d in (found[1].decode().split(",") if found and found[1] else []):
                add(d)
            done.append(path)
        for n in names:
            add(n)
        return done


class Initramfs:
    """A cpio archive (newc)."""

    def __init__(self):
        self.entries, self.seen = [], set()

    def _add(self, name, mode, data=b""):
        if name in self.seen:
            return
        self.seen.add(name)
        parent = os.path.dirname(name)
        if parent:
            self._add(parent, 0o040755)
        ino = len(self.entries) + 1
        head = "070701" + "".join(f"{v:08X}" for v in (ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0))
        raw = head.encode() + name.encode() + b"\0"
        raw += b"\0" * (-len(raw) % 4) + data
        self.entries.append(raw + b"\0" * (-len(raw) % 4))

    def directory(self, name):
        self._add(name, 0o040755)

    def link(self, name, to):
        self._add(name, 0o120777, to.encode())

    def text(self, name, text, mode=0o100755):
        self._add(name, mode, text.encode())

    def file(self, name, path):
        with open(path, "rb") as f:
            self._add(name, 0o100755, f.read())

    def program(self, path):
        """With the libraries that it needs, each where the program looks for it."""
        real = os.path.realpath(shutil.which(path, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") or path)
        self.file("bin/" + os.path.basename(path), real)
        r = subprocess.run(["ldd", real], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        for lib in re.findall(r"(/\S+) \(0x", r.stdout):
            self.file(lib.lstrip("/"), os.path.realpath(lib))

    def write(self, path):
        self._add("TRAILER!!!", 0)
        raw = b"".join(self.entries)
        with open(path, "wb") as f:
            f.write(gzip.compress(raw, 1))


INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for m in $(cat /modules.order); do insmod $m; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /sys/class/virtio-ports/vport1p2 ] && break; for p in /sys/class/virtio-ports/*; do [ -e $p/name ] && ok=1; done; [ "$ok" ] && break; usleep 100000; done
for p in /sys/class/virtio-ports/*; do ln -s /dev/${p##*/} /dev/port-$(cat $p/name); done
exec 3<>/dev/port-control >/dev/port-log 2>&1
ask() { echo "$*" >&3; read answer <&3; [ "$answer" = ok ] || fail "the host says $answer to: $*"; }
say() { echo "$(cut -d' ' -f1 /proc/uptime) $*"; }
fail() { say "FAILED: $*"; dmesg | tail -40; echo "failed $*" >&3; sync; poweroff -f; }
ask booted
. /test.sh
echo "done" >&3
poweroff -f
"""


class VM:
    def __init__(self, test, kernel, initrd, memory="512M"):
        self.test, self.kernel, self.initrd, self.memory = test, kernel, initrd, memory
        self.process = self.control = None
        self.pending = b""

    def _accel(self):
        with open("/proc/cpuinfo") as f:
            flags = f.read()
        if os.access("/dev/kvm", os.R_OK | os.W_OK) and re.search(r"\b(vmx|svm)\b", flags):
            return ["-accel", "kvm", "-cpu", "host"]
        return ["-accel", "tcg,thread=multi", "-cpu", "Westmere,+rdrand"]

    def boot(self):
        """One emulated boot in a hundred hangs before init: try again once."""
        for attempt in (1, 2):
            try:
                began = time.monotonic()
                self._start()
                require(self.request(BOOT_SECONDS * SCALE) == "booted", "the guest's first word is unexpected")
                self.answer()
                say(f"the guest booted in {time.monotonic() - began:.1f} s")
                return
            except (Failure, OSError) as e:
                self.end()
                if attempt == 2:
                    raise Failure(f"the guest does not boot: {e}; console: {self.console()[-1500:]}") from e
                say(f"booting once more: {e}")

    def console(self):
        try:
            with open(self.test.path("console"), errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def log(self):
        try:
            with open(self.test.path("guest.log"), errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    def _start(self):
        ours, theirs = socket.socketpair()
        argv = ["qemu-system-x86_64", "-M", "q35", *self._accel(), "-smp", "2", "-m", self.memory, "-nodefaults", "-no-reboot", "-display", "none",
                "-kernel", self.kernel.vmlinux, "-initrd", self.initrd,
                "-append", "console=ttyS0 quiet panic=-1 mitigations=off cryptomgr.notests random.trust_cpu=on",
                "-serial", "file:" + self.test.path("console"),
                "-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,romfile=",
                "-device", "virtio-serial-pci",
                "-chardev", f"file,id=log,path={self.test.path('guest.log')}", "-device", "virtserialport,chardev=log,name=log",
                # The control channel is an inherited socket pair: no path, nothing to clean up.
                "-chardev", f"socket,id=control,fd={theirs.fileno()}", "-device", "virtserialport,chardev=control,name=control"]
        self.process = self.test.popen(argv, pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL, stderr=open(self.test.path("qemu.err"), "w"))
        theirs.close()
        self.control, self.pending = ours, b""

    def request(self, timeout):
        """The guest's next line on the control port."""
        until = time.monotonic() + timeout
        while b"\n" not in self.pending:
            left = until - time.monotonic()
            require(left > 0, f"the guest said nothing for {timeout:.0f} s; its log ends: {self.log()[-1500:]}")
            self.control.settimeout(left)
            try:
                more = self.control.recv(4096)
            except TimeoutError:
                continue
            require(more, f"the guest is gone; its log ends: {self.log()[-1500:]}")
            self.pending += more
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode().strip()

    def answer(self, text="ok"):
        self.control.sendall(text.encode() + b"\n")

    def run(self, on_request, timeout):
        """Serves the guest's requests until it is done."""
        until = time.monotonic() + timeout * SCALE
        while True:
            line = self.request(max(1.0, until - time.monotonic()))
            if line == "done":
                return
            require(not line.startswith("failed"), f"in the guest: {line}; its log ends:\n{self.log()[-3000:]}")
            say(f"guest: {line}")
            on_request(line)
            self.answer()

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()
        if self.control:
            self.control.close()


def initramfs(path, kernel, script, programs, variables):
    a = Initramfs()
    for d in ("proc", "sys", "dev", "tmp", "mnt", "etc", "bin"):
        a.directory(d)
    a.link("etc/mtab", "/proc/mounts")
    a.text("init", INIT)
    with open(script) as f:
        a.text("test.sh", "".join(f"{k}={v}\n" for k, v in variables.items()) + f.read())
    busybox = shutil.which("busybox")
    require("not a dynamic" in subprocess.run(["ldd", busybox], capture_output=True, text=True, check=False).stderr, "busybox must be the static one (package busybox-static)")
    a.file("bin/busybox", busybox)
    for p in programs:
        a.program(p)
    if os.path.exists("/etc/mke2fs.conf"):
        a.file("etc/mke2fs.conf", "/etc/mke2fs.conf")
    order = []
    for m in kernel.with_dependencies(MODULES):
        name = "modules/" + os.path.basename(m)
        a.file(name, m)
        order.append("/" + name)
    require(any(m.endswith("/nbd.ko") for m in order), "the kernel has no nbd.ko")
    a.text("modules.order", "\n".join(order) + "\n")
    a.write(path)
