#!/usr/bin/env python3
"""Builds what is measured, runs it through all workloads, interleaved, and prints medians and ratios. See README.md.

  benches/peers/run.py [--rounds 5] [--secs 2] [--only json,newconn] [--modes forward,gateway,gateway-tls]
                       [--idle] [--out NAME] [--no-build] [TARGET...]
"""
import argparse, fcntl, json, os, re, shlex, socket, subprocess, time, urllib.request
from pathlib import Path

import report

BENCH = Path(__file__).resolve().parent
REPO = BENCH.parent.parent
D = "/tmp/bench"                                     # certificates, logs, nginx's files (its configuration names it)
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
LG = str(BUILT / "loadgen/release/loadgen")
NODE = str(BUILT / "release/examples/bench-node")
KEY = "sk-REAL-0123456789abcdefghijklmnopqrstuvwxyz"
REAL = f"Bearer {KEY}"
NAMES = {"BENCH": str(BENCH), "D": D, "LOADGEN": LG, "NODE": NODE, "KEY": KEY, "REAL": REAL}
PROXY_CPU, LOAD_CPU = os.environ.get("PROXY_CPU", "1"), os.environ.get("LOAD_CPU", "0")
TICK = os.sysconf("SC_CLK_TCK")

# name: (load options, applies to h2-capable targets only, default seconds, unit)
W = {
    "json":       ("--path /json --conns 32", False),
    "chat":       ("--path /chat --method POST --body 2048 --conns 32", False),
    "h2":         ("--path /json --h2 --conns 4 --streams 16", True),
    "newconn":    ("--path /json --new-conn --conns 8", False),
    "resume":     ("--path /json --new-conn --resume --conns 8", False),
    "down":       ("--path /bytes/10000000 --conns 4", False),
    "up":         ("--path /upload --method POST --body 4000000 --conns 4", False),
    "sse":        ("--path /sse?n=150&interval_ms=10 --sse --conns 50 --warmup 1", False),
    "rate":       ("--path /json --conns 16 --rate 200 --warmup 1", False),
}
TLS_ONLY = {"h2", "newconn", "resume"}


class Lock:
    def __enter__(self):
        self.f = open(os.environ.get("BENCH_LOCK", "/tmp/sallyport-bench.lock"), "w")
        fcntl.flock(self.f, fcntl.LOCK_EX)
    def __exit__(self, *a):
        self.f.close()


def load_env(name):
    env = {**NAMES, "TOKEN": "Bearer PLACEHOLDER", "NAME": name}
    for line in (BENCH / "targets" / f"{name}.env").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            k, v = line.split("=", 1)
            for x in NAMES:
                v = re.sub(r"\$%s\b|\$\{%s\}" % (x, x), lambda m: NAMES[x], v)
            env[k.strip()] = v.strip()
    return env


def tree(pid):
    out, todo = [], [pid]
    while todo:
        p = todo.pop()
        out.append(p)
        try:
            for t in os.listdir(f"/proc/{p}/task"):
                todo += [int(x) for x in open(f"/proc/{p}/task/{t}/children").read().split()]
        except OSError:
            pass
    return out


def mem(pid):
    """RSS and PSS of the tree, in MiB (PSS counts shared pages once)."""
    rss = pss = 0
    for p in tree(pid):
        try:
            t = open(f"/proc/{p}/smaps_rollup").read()
        except OSError:
            continue
        rss += int(re.search(r"^Rss:\s+(\d+)", t, re.M)[1])
        pss += int(re.search(r"^Pss:\s+(\d+)", t, re.M)[1])
    return rss / 1024, pss / 1024


def busy():
    f = [int(x) for x in open("/proc/stat").readline().split()[1:]]
    return (sum(f[0:3]) + sum(f[5:8])) / TICK, f[7] / TICK  # user nice sys irq softirq steal


def wait_port(addr, secs=30):
    h, p = addr.rsplit(":", 1)
    end = time.time() + secs
    while time.time() < end:
        try:
            socket.create_connection((h, int(p)), 0.5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing listens on {addr}")


def wait_file(path, secs=60):
    end = time.time() + secs
    while time.time() < end:
        if os.path.exists(path):
            return Path(path).read_text().strip()
        time.sleep(0.05)
    raise SystemExit(f"{path} was not written")


def build(targets):
    """Everything that is measured: the load generator, our node, and nginx where Debian has it."""
    os.makedirs(D, exist_ok=True)
    with Lock():
        subprocess.run(["cargo", "build", "--release", "--locked", "-q", "--manifest-path", str(BENCH / "loadgen/Cargo.toml"),
                        "--target-dir", str(BUILT / "loadgen")], check=True)
        if any(t.startswith("ours") for t in targets):
            subprocess.run(["cargo", "build", "--profile", "bench", "--locked", "-q", "--example", "bench-node"], check=True, cwd=REPO)
    if "nginx" in targets and not os.path.exists("/usr/sbin/nginx"):
        root = [] if os.getuid() == 0 else ["sudo"]
        subprocess.run([*root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "nginx-light"], check=True)


def spawn(cmd, cpu, log, env=None):
    argv = ["taskset", "-c", cpu] + shlex.split(cmd)
    f = open(log, "ab")
    return subprocess.Popen(argv, stdout=f, stderr=f, stdin=subprocess.DEVNULL, start_new_session=True,
                            env={**os.environ, **(env or {})})


class Target:
    def __init__(self, name):
        self.e = load_env(name)
        self.name = name
        self.modes = [m for m, k in (("forward", "FORWARD"), ("gateway-tls", "GATEWAY_TLS"), ("gateway", "GATEWAY")) if k in self.e]

    def start(self):
        e = self.e
        if "PREPARE" in e:
            subprocess.run(e["PREPARE"], shell=True, check=True)
        extra = dict(x.split("=", 1) for x in shlex.split(e.get("ENV", "")))
        self.p = spawn(e["START"], PROXY_CPU, f"{D}/log-{self.name}", extra)
        for m in self.modes:
            wait_port(e[m.upper().replace("-", "_")])
        time.sleep(float(e.get("SETTLE", "0.5")))
        if "TOKEN_FILE" in e:
            e["TOKEN"] = wait_file(e["TOKEN_FILE"])

    def stop(self):
        # ends the whole tree we started, by pid
        ps = tree(self.p.pid)
        for sig in (15, 9):
            for p in ps:
                try:
                    os.kill(p, sig)
                except OSError:
                    pass
            try:
                self.p.wait(3)
            except subprocess.TimeoutExpired:
                pass

    def args(self, mode):
        e = self.e
        a = ["--mode", "forward" if mode == "forward" else "gateway", "--addr", e[mode.upper().replace("-", "_")], "--token", e["TOKEN"],
             "--ca", e["CA"], "--target", e.get("TARGET", "localhost:9443")]
        if mode == "gateway":
            a += ["--plain"]
        if mode != "forward":
            if e.get("PREFIX"):
                a += ["--prefix", e["PREFIX"]]
            if e.get("HOST"):
                a += ["--host", e["HOST"]]
            if e.get("SNI"):
                a += ["--sni", e["SNI"]]
        if e.get("HEADER"):
            a += ["--header", e["HEADER"]]
        for h in filter(None, e.get("PROXY_HEADER", "").split(";;")):
            a += ["--proxy-header", h]
        for h in filter(None, e.get("ADD_HEADER", "").split(";;")):
            a += ["--add-header", h]
        return a


def measure(args, opts, secs, pid, up):
    """One load run; a run disturbed by other processes is repeated once and the calmer of the two is kept."""
    best = None
    cmd = ["taskset", "-c", LOAD_CPU, LG, "load", *args, "--warmup", "0.4", *shlex.split(opts), "--duration", str(secs),
           "--pid", str(pid), "--upstream-pid", str(up)]
    for _ in range(2):
        b0, s0 = busy()
        t0 = time.time()
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=120)
        wall = time.time() - t0
        b1, s1 = busy()
        try:
            j = json.loads(r.stdout.strip().splitlines()[-1])
        except Exception:
            return {"requests": 0, "errors": 1, "error": (r.stderr or r.stdout)[-200:], "foreign": 0.0}
        own = (j["proxy_cpu_s"] + j["upstream_cpu_s"] + j["load_cpu_s"]) / j["wall_s"] * wall
        j["foreign"] = round(max(0.0, (b1 - b0) - own) / wall, 3)  # cores used by others (or stolen)
        j["steal"] = round((s1 - s0) / wall, 3)
        if best is None or j["foreign"] < best["foreign"]:
            best = j
        if j["foreign"] < 0.15:
            break
    return best


def derive(w, j):
    """The figures of one sample."""
    n, cpu, o = j.get("requests", 0), j.get("proxy_cpu_s", 0.0), {}
    if j.get("wall_s"):
        o["util"] = cpu / j["wall_s"]
    if w in ("down", "up"):
        gb = (j.get("bytes", 0) if w == "down" else n * 4e6) / 1e9
        if gb > 0.003:
            o["cpu_s_per_GB"] = cpu / gb
            o["MB_s"] = gb * 1000 / j["wall_s"]
    elif w == "sse":
        if j.get("events"):
            o["cpu_us_per_event"] = cpu * 1e6 / j["events"]
            o["ev_p50_us"], o["ev_p99_us"] = j["ev_p50_us"], j["ev_p99_us"]
            o["events_s"] = j["events"] / j["wall_s"]
    elif n:
        o["cpu_us_per_req"] = cpu * 1e6 / n
        o["rps"] = j["rps"]
        o["p50_us"], o["p99_us"] = j["p50_us"], j["p99_us"]
    o["ok"] = int(n > 0 and j.get("key_ok") == n and j.get("bad_status") == 0)
    o["errors"] = j.get("errors", 0)
    o["foreign"] = j.get("foreign", 0)
    return o


def stats(url="http://127.0.0.1:9442/"):
    return json.loads(urllib.request.urlopen(url, timeout=5).read())


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("targets", nargs="*", default=["ours", "nginx", "limit"])
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--secs", type=float, default=2.0)
    ap.add_argument("--only", default="")
    ap.add_argument("--modes", default="")
    ap.add_argument("--idle", action="store_true", help="also memory with idle connections")
    ap.add_argument("--no-build", action="store_true")
    ap.add_argument("--out", default="latest")
    ap.add_argument("--append", action="store_true", help="add rounds to the samples of an earlier run with the same --out")
    a = ap.parse_args()
    if not a.no_build:
        build(a.targets)
    subprocess.run([str(BENCH / "ca.sh"), D], check=True, capture_output=True)
    ws = [w for w in W if not a.only or w in a.only.split(",")]
    raw_path = BENCH / "results" / f"{a.out}.jsonl"
    raw_path.parent.mkdir(exist_ok=True)
    rows, idle, first = [], {}, 0
    if a.append and raw_path.exists():
        for line in raw_path.read_text().splitlines():
            r = json.loads(line)
            rows.append({"round": r["round"], "target": r["target"], "mode": r["mode"], "w": r["w"], **r["d"]})
        first = 1 + max((r["round"] for r in rows), default=-1)
        old = raw_path.with_suffix(".json")
        idle = json.loads(old.read_text()).get("idle", {}) if old.exists() else {}
    raw = open(raw_path, "a" if a.append else "w")
    up = spawn(f"{LG} upstream --cert {D}/up.pem --key {D}/up.key", LOAD_CPU, f"{D}/log-upstream")
    wait_port("127.0.0.1:9443")
    ts = []
    try:
        if a.rounds:
            for n in a.targets:
                t = Target(n)
                ts.append(t)
                t.start()
            for rnd in range(first, first + a.rounds):
                lock = Lock()
                lock.__enter__()  # a round at a time, so that other work on this machine gets its turn
                for w in ws:
                    jobs = [(t, m) for t in ts for m in t.modes if not a.modes or m in a.modes.split(",")]
                    opts, h2 = W[w]
                    # direct: the baseline of the latency figures
                    if w in ("rate", "sse", "json", "newconn"):
                        j = measure(["--mode", "direct", "--ca", f"{D}/up-ca.pem", "--token", REAL], opts, a.secs, 0, up.pid)
                        o = derive(w, j)
                        rows.append({"round": rnd, "target": "direct", "mode": "direct", "w": w, **o})
                        raw.write(json.dumps({"round": rnd, "target": "direct", "mode": "direct", "w": w, "d": o, "raw": j}) + "\n")
                    for t, m in jobs[rnd % len(jobs):] + jobs[:rnd % len(jobs)]:  # rotate the order
                        if (h2 and not t.e.get("H2")) or (m == "gateway" and w in TLS_ONLY) or w in t.e.get("SKIP", "").split(","):
                            continue
                        if t.e.get("RESTART"):
                            t.stop()
                            t.start()
                        s0 = stats()
                        j = measure(t.args(m), opts, a.secs, t.p.pid, up.pid)
                        s1 = stats()
                        o = derive(w, j)
                        if j.get("conns") and w in ("newconn", "resume"):
                            o["up_conns_per_conn"] = (s1["conns"] - s0["conns"]) / max(1, j["conns"])
                        rows.append({"round": rnd, "target": t.name, "mode": m, "w": w, **o})
                        raw.write(json.dumps({"round": rnd, "target": t.name, "mode": m, "w": w, "d": o, "raw": j}) + "\n")
                        raw.flush()
                        if not o["ok"] or o["errors"]:
                            print(f"  ! round {rnd} {t.name} {m} {w}: ok={o['ok']} errors={o['errors']} {j.get('error','')}", flush=True)
                lock.__exit__()
                time.sleep(1)
                print(f"round {rnd + 1 - first}/{a.rounds} done", flush=True)
                report.write(BENCH / "results" / a.out, W, rows, idle)
            for t in ts:
                t.stop()
            ts = []
        if a.idle:
            for n in a.targets:
                t = Target(n)
                modes = [m for m in t.modes if m != "gateway" and (not a.modes or m in a.modes.split(","))]
                for m in modes:
                    t = Target(n)
                    ts.append(t)
                    with Lock():
                        t.start()
                        time.sleep(1)
                        row = {"0": [round(x, 1) for x in mem(t.p.pid)]}
                        for k in (1000, 5000):
                            if k > int(t.e.get("IDLE_MAX", 5000)):
                                continue
                            p = subprocess.Popen(["taskset", "-c", LOAD_CPU, LG, "load", *t.args(m), "--path", "/json", "--idle", str(k)],
                                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                            j = json.loads(p.stdout.readline())
                            time.sleep(1)
                            row[str(k)] = [round(x, 1) for x in mem(t.p.pid)] + [j["ready"], j["errors"]]
                            if j["errors"]:
                                print(f"  ! idle {n} {m} {k}: {j}", flush=True)
                            p.stdin.close()
                            p.wait(30)
                            time.sleep(1)
                        idle[f"{n}/{m}"] = row
                        t.stop()
                    ts.remove(t)
                    print("idle", n, m, row, flush=True)
    finally:
        for t in ts:
            t.stop()
        os.kill(up.pid, 15)
    report.write(BENCH / "results" / a.out, W, rows, idle)
    print(f"wrote {BENCH}/results/{a.out}.md .json .jsonl")
    print(report.ratios(json.loads((BENCH / "results" / f"{a.out}.json").read_text())["summary"]))


if __name__ == "__main__":
    main()
