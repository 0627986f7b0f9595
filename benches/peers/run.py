#!/usr/bin/env python3
"""Brings the peers, runs them and ours through all workloads, interleaved, and writes tables and a plot. See README.md.

  benches/peers/run.py [--rounds 5] [--secs 1.5] [--only json,newconn] [--modes forward,gateway,gateway-tls]
                       [--no-idle] [--no-million] [--no-awake] [--no-build] [--append] [--out NAME] [TARGET...]
"""
import argparse
import json
import os
import subprocess
import time

import install
import report
from measure import D, LOAD_CPU, NAMES, Awake, Lock, Target, derive, measure, mem, spawn, wait_port

ALL = ["ours", "limit", "bare", "nginx", "haproxy", "squid", "mitmproxy", "hudsucker"]
BOTH, FORWARD = ("forward", "gateway-tls"), ("forward",)
EVERY = BOTH + ("gateway",)
# name: options of the load, modes, whether its host is one that no key is bound to
WORKLOADS = {
    "json": ("--path /json --conns 32", EVERY, False),
    "vary": ("--path /json --conns 32 --vary", EVERY, False),
    "chat": ("--path /chat --method POST --body 2048 --conns 32", FORWARD, False),
    "h2": ("--path /json --h2 --conns 4 --streams 16", BOTH, False),
    "newconn": ("--path /json --new-conn --conns 8", BOTH, False),
    "resume": ("--path /json --new-conn --resume --conns 8", FORWARD, False),
    "down": ("--path /bytes/10000000 --conns 4", BOTH, True),
    "up": ("--path /upload --method POST --body 4000000 --conns 4", BOTH, True),
    "scrub": ("--path /bytes/10000000 --conns 4", BOTH, False),
    "sse": ("--path /sse?n=80&interval_ms=10 --sse --conns 50 --warmup 1", FORWARD, False),
    "rate": ("--path /json --conns 16 --rate 200 --warmup 1", BOTH, False),
}
# Where the load's own way to the upstream is measured too, for the latency that is added.
DIRECT = ("rate", "sse")


def bring(wanted, build=True):
    """Builds and installs; gives the targets that can be had, and their versions."""
    os.makedirs(D, exist_ok=True)
    with Lock():
        if build:
            install.ours()
        had, versions = [], {}
        for name in wanted:
            try:
                install.peer(name, NAMES)
                had.append(name)
                versions[name] = install.version(name, NAMES)
            except install.Missing as why:
                print(f"{name} is left out: {why}", flush=True)
    return had, {k: v for k, v in versions.items() if v}


def round_of(number, targets, a, up, awake, keep):
    """One sample of each target, mode and workload; the order of the targets differs from round to round."""
    for w, (options, modes, free) in WORKLOADS.items():
        if a.only and w not in a.only.split(","):
            continue
        if w in DIRECT:
            j = measure(["--mode", "direct", "--ca", f"{D}/up-ca.pem", "--token", NAMES["REAL"]], options, a.secs, up.pid, awake)
            keep(number, "direct", "direct", w, derive(w, j), j)
        jobs = [(t, m) for t in targets for m in t.modes if m in modes and (not a.modes or m in a.modes.split(","))]
        for t, m in jobs[number % max(1, len(jobs)):] + jobs[:number % max(1, len(jobs))]:
            if (w == "h2" and not t.e.get("H2")) or w in t.e.get("SKIP", "").split(","):
                continue
            j = measure(t.args(m, free), options, a.secs, up.pid, awake, t)
            figures = derive(w, j)
            keep(number, t.name, m, w, figures, j)
            if not figures["ok"] or figures["errors"]:
                print(f"  ! round {number} {t.name} {m} {w}: ok={figures['ok']} errors={figures['errors']} {j.get('error', '')}", flush=True)


def idle_memory(name, mode, running):
    """Memory of a fresh process: with nothing, and with connections that did one exchange and wait."""
    t = Target(name)
    running.append(t)
    with Lock():
        t.start()
        time.sleep(1)
        row = {"0": [round(x, 1) for x in mem(t.p.pid)]}
        for count in (1000, 5000):
            if count > int(t.e.get("IDLE_MAX", 5000)):
                continue
            cmd = ["taskset", "-c", LOAD_CPU, NAMES["LOADGEN"], "load", *t.args(mode), "--path", "/json", "--idle", str(count)]
            p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            j = json.loads(p.stdout.readline())
            time.sleep(1)
            row[str(count)] = [round(x, 1) for x in mem(t.p.pid)] + [j["ready"], j["errors"]]
            if j["errors"]:
                print(f"  ! idle {name} {mode} {count}: {j}", flush=True)
            p.stdin.close()
            p.wait(30)
            time.sleep(1)
        t.stop()
    running.remove(t)
    print("idle", name, mode, row, flush=True)
    return row


def million(a, up, awake, running, keep, first):
    """Ours with a million live tokens, ten thousand keys and ten thousand rules, beside ours with few."""
    few, many = Target("ours"), Target("ours-million")
    with Lock(), awake:
        for t in (few, many):
            running.append(t)
            t.start()
        row = {t.name: [round(x, 1) for x in mem(t.p.pid)] for t in (few, many)}
        for number in range(first, first + a.rounds):
            for t in (few, many) if number % 2 else (many, few):
                j = measure(t.args("forward"), WORKLOADS["json"][0], a.secs, up.pid, awake, t)
                keep(number, t.name, "forward", "million", derive("million", j), j)
        for t in (few, many):
            t.stop()
            running.remove(t)
    print("million", row, flush=True)
    return row


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("targets", nargs="*", default=ALL)
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--secs", type=float, default=1.5)
    ap.add_argument("--only", default="", help="these workloads")
    ap.add_argument("--modes", default="")
    ap.add_argument("--no-idle", action="store_true", help="no memory of idle connections")
    ap.add_argument("--no-million", action="store_true", help="not with a million tokens")
    ap.add_argument("--no-awake", action="store_true", help="processors may idle while nothing is to do")
    ap.add_argument("--no-build", action="store_true", help="our programs as they were built last")
    ap.add_argument("--out", default="latest")
    ap.add_argument("--append", action="store_true", help="add to the samples of an earlier run with the same --out")
    a = ap.parse_args()
    names, versions = bring(a.targets, not a.no_build)
    subprocess.run([str(install.BENCH / "ca.sh"), D], check=True, capture_output=True)
    out = install.BENCH / "results" / a.out
    samples = report.Samples(out, a.append, list(WORKLOADS), versions, not a.no_awake)
    first = samples.rounds
    up = spawn(f"{NAMES['LOADGEN']} upstream --cert {D}/up.pem --key {D}/up.key", LOAD_CPU, f"{D}/log-upstream")
    running, awake = [], Awake(not a.no_awake)
    try:
        wait_port("127.0.0.1:9443")
        if a.only != "none":
            for name in names:
                running.append(Target(name))
                running[-1].start()
            for number in range(first, first + a.rounds):
                with Lock(), awake:  # a round at a time, so that other work on this machine gets its turn
                    round_of(number, running, a, up, awake, samples.keep)
                time.sleep(1)
                print(f"round {number + 1 - first}/{a.rounds} done", flush=True)
            while running:
                running.pop().stop()
        if not a.no_idle:
            for name in names:
                for mode in Target(name).modes:
                    if mode in BOTH and (not a.modes or mode in a.modes.split(",")):
                        samples.idle[f"{name}/{mode}"] = idle_memory(name, mode, running)
        if not a.no_million and "ours" in names:
            samples.million = million(a, up, awake, running, samples.keep, first)
    finally:
        for t in running:
            t.stop()
        os.kill(up.pid, 15)
        samples.write()
    print(samples.table())
    print(f"\nwrote {out}.md .svg .json .jsonl")


if __name__ == "__main__":
    main()
