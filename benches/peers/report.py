"""Medians of samples, as the table of the goals and as a table of everything."""
import json
import os
import platform
import re
import statistics
import subprocess
import time
from pathlib import Path

import plot

NAMES = {"ours": "sallyport", "ours-quiet": "sallyport, no log line", "ours-million": "sallyport, a million tokens"}
# A sample is calm while other processes use less than so many processors, and the host takes away less.
CALM = 0.25
MODES = ["direct", "forward", "gateway-tls", "gateway"]
REQUEST = ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us"]
GIGABYTE = ["cpu_s_per_GB", "MB_s", "util"]
COLUMNS = {
    "json": REQUEST, "vary": REQUEST, "chat": REQUEST, "h2": REQUEST, "million": REQUEST,
    "newconn": REQUEST + ["up_conns_per_conn"], "resume": REQUEST + ["up_conns_per_conn"],
    "down": GIGABYTE, "up": GIGABYTE, "scrub": GIGABYTE,
    "sse": ["cpu_us_per_event", "events_s", "util", "ev_p50_us", "ev_p99_us", "added_ev_p99_us"],
    "rate": ["added_p50_us", "added_p99_us", "p50_us", "p99_us", "cpu_us_per_req"],
}
# what, workload, mode, unit, what the ratios are to, the most that ours may be
ROWS = [
    ("forward, 300 B of JSON, kept alive", "json", "forward", "us", "limit", 1.35),
    ("gateway over TLS, the same", "json", "gateway-tls", "us", "limit", 1.35),
    ("gateway in clear, the same", "json", "gateway", "us", "limit", 1.35),
    ("forward, 300 B of JSON, another head each time", "vary", "forward", "us", "limit", 1.35),
    ("gateway over TLS, the same", "vary", "gateway-tls", "us", "limit", 1.35),
    ("gateway in clear, the same", "vary", "gateway", "us", "limit", 1.35),
    ("forward, 2 KB in, 4 KB out", "chat", "forward", "us", "limit", 1.40),
    ("HTTP/2, 4 connections x 16 streams, forward", "h2", "forward", "us", "bare", 1.25),
    ("HTTP/2, the same, gateway over TLS", "h2", "gateway-tls", "us", "bare", 1.25),
    ("a new connection each, forward", "newconn", "forward", "us", "limit", 1.20),
    ("a new connection each, gateway over TLS", "newconn", "gateway-tls", "us", "limit", 1.20),
    ("the same resumed, forward", "resume", "forward", "us", "limit", 1.15),
    ("a GB down, no key bound, forward", "down", "forward", "s", "limit", 1.10),
    ("a GB down, no key bound, gateway over TLS", "down", "gateway-tls", "s", "limit", 1.10),
    ("a GB up, no key bound, forward", "up", "forward", "s", "limit", 1.10),
    ("a GB up, no key bound, gateway over TLS", "up", "gateway-tls", "s", "limit", 1.10),
    ("a GB down, scrubbed, forward", "scrub", "forward", "s", "limit", 1.30),
    ("a GB down, scrubbed, gateway over TLS", "scrub", "gateway-tls", "s", "limit", 1.30),
    ("a streamed event, scrubbed, forward", "sse", "forward", "us", "limit", 1.6),
    ("median delay added at 200/s, forward", "rate", "forward", "us", "limit", 1.2),
    ("median delay added at 200/s, gateway over TLS", "rate", "gateway-tls", "us", "limit", 1.2),
]


def fmt(v):
    return f"{v:,.0f}" if abs(v) >= 100 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}"


def machine():
    """The machine and the date, in one line."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
    system = re.search(r'PRETTY_NAME="(.*)"', Path("/etc/os-release").read_text())
    commit = subprocess.run(["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
                            capture_output=True, text=True).stdout.strip()
    return (f"{time.strftime('%Y-%m-%d')}, {model[1].strip() if model else platform.machine()}, {os.cpu_count()} processors, "
            f"{memory:.0f} GiB, {system[1] if system else 'Linux'}, kernel {platform.release()}, commit {commit or '?'}")


class Samples:
    """All samples of a run, and what is made of them."""

    def __init__(self, out, append, workloads, versions, awake):
        self.awake = awake
        self.out, self.workloads = out, [*workloads, "million"]
        self.rows, self.idle, self.million, self.rounds, self.versions = [], {}, None, 0, versions
        out.parent.mkdir(exist_ok=True)
        self.raw = out.with_suffix(".jsonl")
        if append and self.raw.exists():
            for line in self.raw.read_text().splitlines():
                r = json.loads(line)
                if r["awake"] != awake:
                    raise SystemExit(f"{self.raw} was measured with processors that were {'awake' if r['awake'] else 'not kept awake'}")
                self.rows.append({k: r[k] for k in ("round", "target", "mode", "w")} | r["d"])
            self.rounds = 1 + max((r["round"] for r in self.rows), default=-1)
            if out.with_suffix(".json").exists():
                old = json.loads(out.with_suffix(".json").read_text())
                self.idle, self.million = old.get("idle", {}), old.get("million")
                self.versions = old.get("versions", {}) | versions
        else:
            self.raw.write_text("")

    def keep(self, number, target, mode, w, figures, raw):
        """Takes one sample."""
        sample = {"round": number, "target": target, "mode": mode, "w": w}
        self.rows.append(sample | figures)
        with self.raw.open("a") as f:
            f.write(json.dumps(sample | {"awake": self.awake, "d": figures, "raw": raw}) + "\n")

    def with_delays(self):
        """The samples, with the delays that the same round's direct way doesn't have."""
        direct = {(r["w"], r["round"]): r for r in self.rows if r["target"] == "direct"}
        for r in self.rows:
            r, base = dict(r), direct.get((r["w"], r["round"]))
            if base and r["w"] == "rate" and "p50_us" in r and "p50_us" in base:
                r["added_p50_us"], r["added_p99_us"] = r["p50_us"] - base["p50_us"], r["p99_us"] - base["p99_us"]
            if base and r["w"] == "sse" and "ev_p99_us" in r and "ev_p99_us" in base:
                r["added_ev_p99_us"] = r["ev_p99_us"] - base["ev_p99_us"]
            yield r

    def medians(self):
        """Of each workload, mode and target."""
        groups = {}
        for r in self.with_delays():
            groups.setdefault((r["w"], r["mode"], r["target"]), []).append(r)
        found = {}
        for at, rs in groups.items():
            calm = [r for r in rs if r.get("disturbed", 0) < CALM]  # samples taken while nothing else ran
            rs = calm if len(calm) >= 3 else rs
            d = {"n": len(rs), "valid": sum(r["ok"] for r in rs), "errors": sum(r["errors"] for r in rs)}
            for c in COLUMNS[at[0]]:
                v = [r[c] for r in rs if c in r]
                if v:
                    d[c] = {"med": statistics.median(v), "min": min(v), "max": max(v)}
            found[at] = d
        return found

    def per_connection(self, name):
        """KiB an idle connection, between no connections and the most that were held."""
        row = self.idle.get(name, {})
        top = row.get("5000") or row.get("1000")
        return (top[1] - row["0"][1]) * 1024 / max(1, top[2]) if top else None

    def figures(self):
        """The rows of the goals: (what, unit, base, goal, {target: figure}, {target: ratio to the base})."""
        medians, rows = self.medians(), []
        for what, w, mode, unit, base, goal in ROWS:
            column = COLUMNS[w][0]
            of = {t: d[column]["med"] for (dw, dm, t), d in medians.items()
                  if (dw, dm) == (w, mode) and t != "direct" and column in d and d["valid"] == d["n"]}
            if of:
                rows.append((what, unit, base, goal, of, {t: self.ratio(w, mode, column, t, base) for t in of if base in of}))
        for mode, what in (("forward", "an idle intercepted connection"), ("gateway-tls", "an idle connection to the gateway")):
            of = {name.split("/")[0]: self.per_connection(name) for name in self.idle if name.split("/")[1] == mode}
            of = {t: v for t, v in of.items() if v is not None}
            if of:
                ratios = {t: v / of["limit"] for t, v in of.items() if "limit" in of}
                rows.append((what, "KiB", "limit", "30 KiB" if mode == "forward" else None, of, ratios))
        return rows

    def ratio(self, w, mode, column, target, base):
        """The median of the rounds' ratios: from one round to the next machines drift more than programs differ. A delay
        is a difference already, which may be next to nothing in one round, so of delays it is the ratio of the medians
        of the rounds that have both."""
        rounds = {}
        for r in self.with_delays():
            if (r["w"], r["mode"]) == (w, mode) and r["target"] in (target, base) and column in r:
                rounds.setdefault(r["round"], {})[r["target"]] = (r[column], r.get("disturbed", 0) < CALM)
        both = [(r[target], r[base]) for r in rounds.values() if target in r and base in r]
        calm = [(one, other) for one, other in both if one[1] and other[1]]
        both = calm if len(calm) >= 3 else both
        if w == "rate":
            return statistics.median(one[0] for one, _ in both) / statistics.median(other[0] for _, other in both)
        return statistics.median(one[0] / other[0] for one, other in both)

    def table(self):
        """The table of the goals: ratios to the limit (or to bare) round by round, medians in brackets."""
        rows = self.figures()
        seen = {t for row in rows for t in row[4]}
        order = ["limit", "bare", "ours", "ours-quiet", "nginx", "haproxy", "squid", "mitmproxy", "hudsucker"]
        targets = [t for t in order if t in seen]
        lines = ["| CPU time, but for delays and memory | " + " | ".join(NAMES.get(t, t) for t in targets) + " | goal |",
                 "|---" * (len(targets) + 2) + "|"]
        for what, unit, base, goal, of, ratios in rows:
            cells = []
            for t in targets:
                if t not in of:
                    cells.append("")
                elif t == base or t not in ratios or unit == "KiB":
                    cells.append(f"{fmt(of[t])} {unit}")
                else:
                    ratio = fmt(ratios[t])
                    cells.append(f"**{ratio}** ({fmt(of[t])} {unit})" if t == "ours" else ratio)
            lines.append(f"| {what} | " + " | ".join(cells) + f" | {goal or ''} |")
        m = self.medians()
        late = m.get(("sse", "forward", "ours"), {}).get("added_ev_p99_us")
        if late:
            lines.append("")
            lines.append(f"A streamed event comes {fmt(late['med'])} us later in the slowest hundredth than without a proxy "
                         f"(goal: under 1,000 us).")
        few, many = (m.get(("million", "forward", t), {}).get("cpu_us_per_req") for t in ("ours", "ours-million"))
        if few and many and self.million:
            lines.append("")
            ratio = self.ratio("million", "forward", "cpu_us_per_req", "ours-million", "ours")
            lines.append(f"With 1,000,000 live tokens, 10,000 keys and 10,000 rules an exchange costs {ratio:.2f} of "
                         f"one with few ({fmt(many['med'])} and {fmt(few['med'])} us; goal 1.05), and the process has "
                         f"{self.million['ours-million'][0]:,.0f} MiB (goal 1,024).")
        return "\n".join(lines)

    def all_figures(self):
        """Every median with its extremes, and how many samples had the key confirmed by every reply."""
        medians, md = self.medians(), []
        for w in self.workloads:
            body = [(mode, t, d) for (dw, mode, t), d in medians.items() if dw == w]
            if not body:
                continue
            key = COLUMNS[w][0]
            body.sort(key=lambda r: (MODES.index(r[0]), r[2].get(key, {"med": 1e18})["med"]))
            md += [f"### {w}", "", "| mode | target | " + " | ".join(COLUMNS[w]) + " | valid |", "|---" * (len(COLUMNS[w]) + 3) + "|"]
            for mode, t, d in body:
                cells = [f"{fmt(d[c]['med'])} ({fmt(d[c]['min'])} to {fmt(d[c]['max'])})" if c in d else "" for c in COLUMNS[w]]
                errors = f", {d['errors']} errors" if d["errors"] else ""
                md.append(f"| {mode} | {t} | " + " | ".join(cells) + f" | {d['valid']}/{d['n']}{errors} |")
            md.append("")
        if self.idle:
            md += ["### memory (MiB, RSS / PSS of the process tree)", "",
                   "| target, mode | nothing | 1,000 idle connections | 5,000 | KiB a connection |", "|---|---|---|---|---|"]
            for name, r in self.idle.items():
                cells = [f"{r[x][0]:.0f} / {r[x][1]:.0f}" + (f", {r[x][2]} held" if len(r[x]) > 2 and r[x][3] else "") if x in r else "" for x in ("0", "1000", "5000")]
                per = self.per_connection(name)
                md.append(f"| {name} | " + " | ".join(cells) + f" | {'' if per is None else fmt(per)} |")
            md.append("")
        return "\n".join(md)

    def write(self):
        """Writes OUT.md, OUT.svg and OUT.json."""
        head = machine() + (", processors kept awake" if self.awake else "")
        versions = ", ".join(self.versions.values())
        text = f"{head}. {versions}.\n\n{self.table()}\n\n{self.all_figures()}"
        self.out.with_suffix(".md").write_text(text)
        self.out.with_suffix(".svg").write_text(plot.svg([r for r in self.figures() if r[5]], NAMES, head))
        summary = [{"w": w, "mode": m, "target": t, **d} for (w, m, t), d in self.medians().items()]
        self.out.with_suffix(".json").write_text(json.dumps(
            {"machine": head, "versions": self.versions, "summary": summary, "idle": self.idle, "million": self.million}, indent=1))
