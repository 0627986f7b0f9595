#!/usr/bin/env python3
"""Counts the instructions of an exchange with few and with many live tokens, under callgrind.

  benches/peers/instructions.py [--tokens 1000,100000] [--requests 2000] [--mode forward|gateway-tls]

The whole process counts (HTTP, TLS, ours) but not the kernel. The figure is the difference between two
runs of load on one node, divided by the requests, so that start-up and connecting don't count.
"""
import argparse, json, os, re, subprocess, time
from pathlib import Path

import run


def totals(pid, out):
    """Instructions since the last call, from a dump of callgrind."""
    before = set(Path(out).parent.glob(Path(out).name + "*"))
    subprocess.run(["callgrind_control", "--dump", str(pid)], check=True, capture_output=True)
    for _ in range(100):
        fresh = sorted(set(Path(out).parent.glob(Path(out).name + "*")) - before)
        if fresh:
            time.sleep(0.5)
            text = fresh[-1].read_text(errors="replace")
            return int(re.search(r"^(?:totals|summary): (\d+)", text, re.M)[1])
        time.sleep(0.1)
    raise SystemExit("callgrind wrote no dump")


def load(target, mode, requests, up):
    cmd = [run.LG, "load", *target.args(mode), "--path", "/json", "--conns", "1", "--rate", "200", "--warmup", "0",
           "--duration", str(requests / 200), "--pid", str(target.p.pid), "--upstream-pid", str(up)]
    j = json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1])
    if j["key_ok"] != j["requests"] or not j["requests"]:
        raise SystemExit(f"not every answer confirmed the key: {j}")
    return j["requests"]


def measure(tokens, requests, mode, up):
    out = f"{run.D}/callgrind-{tokens}"
    for old in Path(run.D).glob(Path(out).name + "*"):
        old.unlink()
    target = run.Target("ours-quiet")
    target.e["START"] = f"valgrind --tool=callgrind --callgrind-out-file={out} {target.e['START']} --tokens {tokens}"
    target.start()
    try:
        pid = target.p.pid
        load(target, mode, 400, up)
        totals(pid, out)
        a = load(target, mode, requests, up)
        one = totals(pid, out)
        b = load(target, mode, 3 * requests, up)
        three = totals(pid, out)
        return (three - one) / (b - a)
    finally:
        target.stop()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--tokens", default="1000,100000")
    ap.add_argument("--requests", type=int, default=2000)
    ap.add_argument("--mode", default="forward")
    ap.add_argument("--no-build", action="store_true")
    a = ap.parse_args()
    if not a.no_build:
        run.build(["ours"])
    subprocess.run([str(run.BENCH / "ca.sh"), run.D], check=True, capture_output=True)
    up = run.spawn(f"{run.LG} upstream --cert {run.D}/up.pem --key {run.D}/up.key", run.LOAD_CPU, f"{run.D}/log-upstream")
    try:
        run.wait_port("127.0.0.1:9443")
        first = None
        with run.Lock():
            for tokens in map(int, a.tokens.split(",")):
                n = measure(tokens, a.requests, a.mode, up.pid)
                first = first or n
                print(f"{tokens:>9} live tokens: {n:,.0f} instructions an exchange ({(n / first - 1) * 100:+.2f} %)", flush=True)
    finally:
        os.kill(up.pid, 15)


if __name__ == "__main__":
    main()
