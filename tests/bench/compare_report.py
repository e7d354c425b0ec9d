"""What tests/bench/compare found, for people: tables, the targets, plots (gnuplot)."""
import os
import shutil
import subprocess

from compare_measure import ROWS

QBD, QEMU, NBDKIT = "qbd", "qemu-nbd", "nbdkit"
MIB = 1 << 20


def pick(results, row, server, *keys):
    """A median, or None where it was not measured."""
    v = results["rows"].get(row, {}).get(server, {}).get("median")
    for k in keys:
        v = v.get(k) if isinstance(v, dict) else None
    return v


def durable(results, row, server, which):
    return pick(results, row, server, "durable_write", "latency_us", which)


def ratio(a, b):
    return a / b if a is not None and b else None


def worst_replica(results, row, key):
    replicas = results["rows"].get(row, {}).get(QBD, {}).get("replicas", {})
    return max((r[key] for r in replicas.values()), default=None)


def operations(results, row):
    turns = results["rows"].get(row, {}).get(QBD, {}).get("turns", [])
    return sum(t["write_payload_bytes"] for t in turns) / 4096


def targets(results):
    """[(number, what, wanted, measured or None, met)]: the ratios of issue "Three durable copies at the price of one"."""
    got = []

    # As they are printed, to two digits: 1.0003 log writes a write are one.
    def at_most(number, what, limit, value):
        got.append((number, what, f"≤ {limit:.3g}", value, None if value is None else round(value, 2) <= round(limit, 2)))

    def at_least(number, what, limit, value):
        got.append((number, what, f"≥ {limit:.3g}", value, None if value is None else round(value, 2) >= round(limit, 2)))

    def against(server, row, *keys):
        return ratio(pick(results, row, QBD, *keys), pick(results, row, server, *keys))

    def durable_against(server, row, which):
        return ratio(durable(results, row, QBD, which), durable(results, row, server, which))

    at_most("1", "durable 4k QD1 write: mean latency, of qemu-nbd's write + flush", 1.0, durable_against(QEMU, "w1", "mean"))
    at_most("1", "the same, p99", 1.3, durable_against(QEMU, "w1", "p99"))
    at_most("1 (stretch)", "durable 4k QD1 write: mean latency, of nbdkit's write + flush", 1.2, durable_against(NBDKIT, "w1", "mean"))
    at_least("2", "durable 4k QD32 write: IOPS, of qemu-nbd's with fsync, 16 jobs", 2.0, against(QEMU, "w32", "iops"))
    at_most("2", "server CPU per durable 4k QD32 write, all daemons, of qemu-nbd's", 0.8, against(QEMU, "w32", "cpu_us_per_op"))
    at_most("3", "4k read QD1: mean latency, of qemu-nbd's", 0.7, against(QEMU, "r1", "read", "latency_us", "mean"))
    at_least("3", "4k read QD32: IOPS, of qemu-nbd's", 2.0, against(QEMU, "r32", "iops"))
    at_least("4", "1 MiB sequential write: MiB/s, of qemu-nbd's", 0.45, against(QEMU, "sw", "mib_s"))
    at_least("4", "1 MiB sequential read: MiB/s, of qemu-nbd's", 1.0, against(QEMU, "sr", "mib_s"))
    at_most("5", "1 MiB sequential write: bytes to disk per byte of payload, the worst replica", 1.1, worst_replica(results, "sw", "write_bytes_per_payload_byte"))
    for row, limit in (("w1", 1.0), ("w32", 0.2)):
        n = operations(results, row)
        log_writes = worst_replica(results, row, "log_writes")
        at_most("5", f"{ROWS[row].title}: durable log writes per write, the worst replica", limit, log_writes / n if n and log_writes is not None else None)
    for name, e in (results.get("slow_replica") or {}).items():
        at_most("6", f"{name}: p50 of writes, of before", 1.2, e["ratios"]["p50"])
        at_most("6", f"{name}: p99 of writes, of before", 1.2, e["ratios"]["p99"])
        at_least("6", f"{name}: throughput of writes, of before", 1 / 1.2, e["ratios"]["iops"])
    if not results.get("slow_replica"):
        got.append(("6", "one replica stopped, or its log slowed 50 times: p50, p99, throughput", "≤ 1.2", None, None))
    return got


def number(v, digits=0):
    return "–" if v is None else f"{v:,.{digits}f}"


def target_table(results):
    lines = ["| target | what | wanted | measured | |", "|---|---|---:|---:|---|"]
    for n, what, wanted, value, met in targets(results):
        lines.append(f"| {n} | {what} | {wanted} | {number(value, 2)} | {'not measured' if met is None else 'met' if met else '**missed**'} |")
    return "\n".join(lines)


def rate_table(results):
    servers = results["servers"]
    lines = ["| | " + " | ".join(servers.values()) + " | qbd / qemu-nbd |", "|---|" + "---:|" * (len(servers) + 1)]
    for key in results["rows"]:
        row = ROWS[key]
        unit, what = ("MiB/s", "mib_s") if row.bs == "1m" else ("/s", "iops")
        cells = [f"{number(pick(results, key, s, what))} {unit}" for s in servers]
        lines.append(f"| {row.title} | " + " | ".join(cells) + f" | {number(ratio(pick(results, key, QBD, what), pick(results, key, QEMU, what)), 2)} |")
    return "\n".join(lines)


def latencies_of(results, key, server):
    """(what, its latencies) of one cell; a durable write's are those of qbd bench, which counts the flush, and fio's beside it."""
    flush = pick(results, key, server, "flush_latency_us")
    if ROWS[key].tool:
        yield "write + flush" if flush else "write", pick(results, key, server, "durable_write", "latency_us")
    for side in ("read", "write"):
        yield f"{side} (fio)" if ROWS[key].tool else side, pick(results, key, server, side, "latency_us")
    yield "flush (fio)" if ROWS[key].tool else "flush", flush


def latency_table(results):
    lines = ["| | server | | mean | p50 | p99 | p99.9 | max |", "|---|---|---|---:|---:|---:|---:|---:|"]
    for key in results["rows"]:
        for server, name in results["servers"].items():
            for what, v in latencies_of(results, key, server):
                if v:
                    lines.append(f"| {ROWS[key].title} | {name} | {what} | " + " | ".join(number(v.get(k)) for k in ("mean", "p50", "p99", "p99.9", "max")) + " |")
    return "\n".join(lines)


def cost_table(results):
    lines = ["| | server | CPU, µs a request | context switches a request | disk writes a request | disk flushes a request | bytes to disk per byte written |",
             "|---|---|---:|---:|---:|---:|---:|"]
    for key in results["rows"]:
        for server, name in results["servers"].items():
            m = results["rows"][key][server]["median"]
            switches = None if server == NBDKIT else m["switches_per_op"]
            amplification = None if server == NBDKIT else results["rows"][key][server].get("bytes_per_payload_byte")
            lines.append(f"| {ROWS[key].title} | {name} | {number(m['cpu_us_per_op'], 1)} | {number(switches, 2)} | {number(m.get('disk_writes_per_op'), 2)} | "
                         f"{number(m.get('disk_flushes_per_op'), 2)} | {number(amplification, 2)} |")
    return "\n".join(lines)


def replica_table(results):
    lines = ["| | replica | bytes to disk per byte written | of it log | of it write-back | log writes a write |", "|---|---|---:|---:|---:|---:|"]
    for key in results["rows"]:
        n = operations(results, key)
        for name, r in sorted(results["rows"][key].get(QBD, {}).get("replicas", {}).items()):
            writes = r["log_writes"] / n * (256 if ROWS[key].bs == "1m" else 1)
            lines.append(f"| {ROWS[key].title} | {name} | {number(r['write_bytes_per_payload_byte'], 2)} | {number(r['log_bytes_per_payload_byte'], 2)} | "
                         f"{number(r['write_back_bytes_per_payload_byte'], 2)} | {number(writes, 3)} |")
    return "\n".join(lines)


def memory_table(results):
    lines = ["| process | resident, MiB | at most, MiB |", "|---|---:|---:|"]
    last = list(results["rows"])[-1]
    for server in results["servers"]:
        for name, p in results["rows"][last][server]["turns"][-1]["cost"]["processes"].items():
            lines.append(f"| {name} | {p['rss_bytes'] / MIB:.0f} | {p['rss_peak_bytes'] / MIB:.0f} |")
    return "\n".join(lines)


def conditions_text(c):
    disk = c["disk"]
    where = f"disk {disk['name']} ({disk['write_cache']} cache, scheduler {disk['scheduler']})" if disk else "no disk of its own"
    return (f"`{c['command']}`\n\n{c['date']}, commit {c['commit'][:12]}{' with changes' if c['changed_since'] else ''}. {c['cpus']} CPUs ({c['cpu']}), {c['memory_bytes'] / 2**30:.0f} GiB, Linux {c['kernel']}, {c['file_system']} "
            f"on ONE {where}: all replicas, all other servers' files and the load share them. {', '.join(str(v) for v in c['versions'].values() if v)}. Volume {c['size']}, {c['turns']} turns of {c['runtime_s']:g} s each, in turns; medians. "
            f"Not measured: {'; '.join(c['not_measured']) or 'nothing'}.")


def text(results):
    parts = [("Conditions", conditions_text(results["conditions"]) + "\n\nAll over unix sockets. Every write that qbd answers is durable on two disks' logs of three, and one that Ceph answers on three OSDs. The others (qemu-nbd with `--cache=none --aio=io_uring`) make 4 KiB writes durable by a flush after each (fio `--fsync=1`; "
              "at QD32 16 jobs of 2, since a flush holds back its own job). 1 MiB writes of qemu-nbd are not flushed at all, nbdkit's after every 8. After each turn of writes a server writes back what it put off before the next one's turn. nbdkit reads from the page cache, so do qbd's replicas up to 64 KiB (what they have read before; 1 MiB from the disk), qemu-nbd from its disk."),
             ("Targets", target_table(results)), ("Rates", rate_table(results)),
             ("Latency, µs", "*write + flush*: as `qbd bench` measures it, from the write's start until its flush is answered (of qbd and Ceph: until the write is). All else is fio's, write and flush apart.\n\n" + latency_table(results)),
             ("What it costs the servers", "All processes of a server together; disk writes and flushes are the whole disk's meanwhile. Bytes to disk: /proc/PID/io over the whole row, write-back afterwards included. nbdkit's threads end with their connections and take their context switches along, and what it writes is counted by pages of the cache and not by bytes: neither is told.\n\n" + cost_table(results)),
             ("Each replica", "Per byte and per write of the client's, over the whole row until nothing was left to write back.\n\n" + replica_table(results)),
             ("Memory", "At the end of the last row.\n\n" + memory_table(results))]
    return "# Comparison\n\nMade by tests/bench/compare; results.json has every turn.\n\n" + "\n\n".join(f"## {title}\n\n{body}" for title, body in parts) + "\n"


# ---- plots ----

def plot(path, title, unit, labels, series, log=False):
    """Grouped bars: series is {name: [value or None]}."""
    data = "".join('"%s"\t%s\n' % (label, "\t".join("?" if v[i] is None else f"{v[i]:g}" for v in series.values())) for i, label in enumerate(labels))
    bars = ", ".join(f"$d using {i + 2}{':xtic(1)' if i == 0 else ''} title '{name}'" for i, name in enumerate(series))
    script = f"""set terminal svg size 900,420 font 'sans-serif,12' background '#ffffff'
set output '{path}'
set title '{title}'
set ylabel '{unit}'
set style data histogram
set style histogram clustered gap 1
set style fill solid 0.85 border -1
set boxwidth 0.9
set xtics rotate by -18 scale 0
set grid ytics
set key outside top center horizontal
set datafile missing '?'
{'set logscale y; set yrange [10:*]' if log else 'set yrange [0:*]'}
$d << END
{data}END
plot {bars}
"""
    subprocess.run(["gnuplot"], input=script, text=True, check=True)


def short(key):
    row = ROWS[key]
    what = "70/30" if row.rw == "randrw" else "write" if row.writes else "read"
    how = f"{row.jobs} conn." if row.jobs > 1 else f"{row.volumes} vol." if row.volumes > 1 else f"QD{row.depth}"
    return f"{what} {how}"


def plots(results, out):
    """Says what it could not do."""
    if not shutil.which("gnuplot"):
        return "no plots: gnuplot is not installed (Debian: gnuplot-nox)"
    servers = results["servers"]
    small, large = [k for k in results["rows"] if ROWS[k].bs == "4k"], [k for k in results["rows"] if ROWS[k].bs == "1m"]
    if small:
        plot(os.path.join(out, "iops.svg"), "4 KiB requests a second (more is better)", "requests/s", [short(k) for k in small],
             {n: [pick(results, k, s, "iops") for k in small] for s, n in servers.items()})
    if large:
        plot(os.path.join(out, "throughput.svg"), "1 MiB requests (more is better)", "MiB/s", [short(k) for k in large],
             {n: [pick(results, k, s, "mib_s") for k in large] for s, n in servers.items()})
    writes = [k for k in results["rows"] if ROWS[k].tool]
    if writes:
        which = ("p50", "p99", "p99.9", "max")
        plot(os.path.join(out, "durable-latency.svg"), "Durable 4 KiB write, flush included (less is better)", "microseconds", [f"{short(k)} {w}" for k in writes for w in which],
             {n: [durable(results, k, s, w) for k in writes for w in which] for s, n in servers.items()}, log=True)
    if small:
        plot(os.path.join(out, "cpu.svg"), "Server CPU for a 4 KiB request, all processes (less is better)", "microseconds", [short(k) for k in small],
             {n: [pick(results, k, s, "cpu_us_per_op") for k in small] for s, n in servers.items()})
    return None
