#!/usr/bin/python3
"""A real Linux kernel's nbd driver attaches the volume over TCP: mkfs.ext4, mount, files with checksums, kill -9 of replicas while writing, umount, fsck clean, attach again, compare.

With QBD_KERNEL_PORT set, it attaches what already listens there (to develop the test itself against another server) and kills nothing."""
import os
import shutil
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "cluster"))

from qbdtest import SKIPPED, main, say, wait_until  # noqa: E402
from vm import VM, Kernel, initramfs  # noqa: E402

PROGRAMS = ["mkfs.ext4", "e2fsck", "nbd-client"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def scenario(t):
    port = int(os.environ.get("QBD_KERNEL_PORT", "0"))
    cluster = None
    if not port:
        port = free_port()
        cluster = t.cluster()
        say(cluster.start("--size", "512M", "--wal-size", "256M", "--extent-size", "128M", "--listen", f"127.0.0.1:{port}"))
    kernel = Kernel(os.environ.get("QBD_KERNEL_CACHE", os.path.join(os.getcwd(), "kernel")))
    initramfs(t.path("initrd"), kernel, os.path.join(HERE, "test_ext4.sh"), PROGRAMS, {"PORT": port, "EXPORT": "vol0", "FILES": os.environ.get("QBD_KERNEL_FILES", "40")})
    vm = VM(t, kernel, t.path("initrd"))

    def on_request(line):
        word, _, name = line.partition(" ")
        if not cluster:
            return
        if word == "kill":
            cluster.kill(name)
        elif word == "restart":
            cluster.restart(name)
        elif word == "progress":
            at = cluster.status()["commit"]
            wait_until("the guest's writes go on", lambda: cluster.status()["commit"] > at + 10, 30, 0.1)

    try:
        vm.boot()
        vm.run(on_request, 360)
    finally:
        vm.end()
        print(vm.log(), flush=True)
    if cluster:
        cluster.wait_up_to_date()


for program in PROGRAMS + ["qemu-system-x86_64", "lz4", "busybox"]:
    if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        print(f"SKIP: {program} is not installed")
        sys.exit(SKIPPED)
main(scenario)
