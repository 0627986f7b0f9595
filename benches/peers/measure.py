"""Starts targets, puts load on them, and takes the figures of one sample."""
import fcntl
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import install

BENCH = install.BENCH
D = os.environ.get("BENCH_DIR", "/tmp/bench")  # certificates, configurations, logs
KEY = "sk-REAL-0123456789abcdefghijklmnopqrstuvwxyz"
NAMES = {"BENCH": str(BENCH), "D": D, "LOADGEN": str(install.LOADGEN), "NODE": str(install.NODE), "KEY": KEY,
         "REAL": f"Bearer {KEY}", "HUDSUCKER": str(install.HUDSUCKER), "MITMPROXY": str(install.MITMPROXY)}
PROXY_CPU, LOAD_CPU = os.environ.get("PROXY_CPU", "1"), os.environ.get("LOAD_CPU", "0")
TICK = os.sysconf("SC_CLK_TCK")
TRIES = 3


class Lock:
    """The machine for ourselves, among all who keep to this lock."""

    def __enter__(self):
        self.f = open(os.environ.get("BENCH_LOCK", "/tmp/sallyport-bench.lock"), "w")
        fcntl.flock(self.f, fcntl.LOCK_EX)

    def __exit__(self, *a):
        self.f.close()


class Awake:
    """Keeps both processors from idling. A virtual processor that idles is the host's, who gives it back late when
    others want it, too: that is in every wake-up, and differs from one second to the next by more than programs do.
    What spins here has the lowest class of all (SCHED_IDLE): whatever else is ready goes first."""

    SPIN = """
import os
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""

    def __init__(self, wanted):
        self.cpus = {PROXY_CPU, LOAD_CPU} if wanted else ()
        self.spinning = []

    def __enter__(self):
        self.spinning = [subprocess.Popen(["taskset", "-c", cpu, sys.executable, "-c", self.SPIN]) for cpu in self.cpus]
        return self

    def __exit__(self, *a):
        for p in self.spinning:
            p.kill()
            p.wait()

    def spent(self):
        """The processor time that it took so far, in seconds."""
        return sum(int(Path(f"/proc/{p.pid}/schedstat").read_text().split()[0]) for p in self.spinning) / 1e9


def filled(text):
    """The text with `$NAME` replaced where the name is one of ours."""
    return re.sub(r"\$(\w+)", lambda m: NAMES.get(m[1], m[0]), text)


def load_env(name):
    env = {**NAMES, "TOKEN": "Bearer PLACEHOLDER", "NAME": name}
    for line in (BENCH / "targets" / f"{name}.env").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            k, v = line.split("=", 1)
            env[k.strip()] = filled(v.strip())
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
        if "CONF" in e:
            Path(D, e["CONF"]).write_text(filled((BENCH / "conf" / e["CONF"]).read_text()))
        if "PREPARE" in e:
            subprocess.run(e["PREPARE"], shell=True, check=True, stdout=subprocess.DEVNULL)
        extra = dict(x.split("=", 1) for x in shlex.split(e.get("ENV", "")))
        self.p = spawn(e["START"], PROXY_CPU, f"{D}/log-{self.name}", extra)
        for m in self.modes:
            wait_port(e[m.upper().replace("-", "_")])
        time.sleep(float(e.get("SETTLE", "0.5")))
        if "TOKEN_FILE" in e:
            e["TOKEN"] = wait_file(e["TOKEN_FILE"], 120)

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

    def args(self, mode, free=False):
        """The load's options; `free` for a host that no key is bound to, where the target knows one."""
        e = self.e
        if free:
            e = {**e, **{k[5:]: v for k, v in e.items() if k.startswith("FREE_")}}
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


def measure(args, opts, secs, up, awake, target=None):
    """One load run; one that others or the host disturbed is repeated, and the calmest is kept. One that went wrong
    is kept whatever comes after it."""
    best = None
    for _ in range(TRIES):
        if target and target.e.get("RESTART"):
            target.stop()
            target.start()
        cmd = ["taskset", "-c", LOAD_CPU, NAMES["LOADGEN"], "load", *args, "--warmup", "0.4", *shlex.split(opts), "--duration",
               str(secs), "--pid", str(target.p.pid if target else 0), "--upstream-pid", str(up)]
        before, spun0, (b0, s0), t0 = stats(), awake.spent(), busy(), time.time()
        r = subprocess.run(cmd, capture_output=True, text=True, timeout=120)
        wall, (b1, s1), spun1, after = time.time() - t0, busy(), awake.spent(), stats()
        try:
            j = json.loads(r.stdout.strip().splitlines()[-1])
        except Exception:
            return {"requests": 0, "errors": 1, "error": (r.stderr or r.stdout)[-200:], "disturbed": 0.0}
        own = (j["proxy_cpu_s"] + j["upstream_cpu_s"] + j["load_cpu_s"]) / j["wall_s"] * wall
        j["foreign"] = round(((b1 - b0) - (spun1 - spun0) - own) / wall, 3)  # cores used by others, or stolen from those that idle
        j["steal"] = round((s1 - s0) / wall, 3)  # cores that the host gave to others
        j["disturbed"] = max(0.0, j["foreign"], j["steal"])
        j["up_conns"] = after["conns"] - before["conns"]
        if j["errors"] or j["bad_status"] or j["key_ok"] != j["requests"]:
            return j
        if best is None or j["disturbed"] < best["disturbed"]:
            best = j
        if j["disturbed"] < 0.15:
            break
    return best


def derive(w, j):
    """The figures of one sample."""
    n, cpu, o = j.get("requests", 0), j.get("proxy_cpu_s", 0.0), {}
    if j.get("wall_s"):
        o["util"] = cpu / j["wall_s"]
    if w in ("down", "up", "scrub"):
        gb = (j.get("bytes", 0) if w != "up" else n * 4e6) / 1e9
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
    o["disturbed"] = j.get("disturbed", 0)
    if j.get("conns") and w in ("newconn", "resume"):
        o["up_conns_per_conn"] = j["up_conns"] / j["conns"]
    return o


def stats(url="http://127.0.0.1:9442/"):
    return json.loads(urllib.request.urlopen(url, timeout=5).read())
