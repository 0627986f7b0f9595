"""Medians of samples as tables, and ratios between targets of one run."""
import json
import statistics

COLS = {
    "json": ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us"], "chat": ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us"],
    "h2": ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us"],
    "newconn": ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us", "up_conns_per_conn"],
    "resume": ["cpu_us_per_req", "rps", "util", "p50_us", "p99_us", "up_conns_per_conn"],
    "down": ["cpu_s_per_GB", "MB_s", "util"], "up": ["cpu_s_per_GB", "MB_s", "util"],
    "sse": ["cpu_us_per_event", "events_s", "util", "ev_p50_us", "ev_p99_us"],
    "rate": ["p50_us", "p99_us", "added_p50_us", "added_p99_us", "cpu_us_per_req"],
}


def fmt(v):
    return f"{v:,.0f}" if abs(v) >= 1000 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}"


def write(out, workloads, rows, idle):
    """Writes OUT.md and OUT.json: the medians of the samples."""
    base = {}
    for r in rows:
        if r["target"] == "direct" and "p50_us" in r:
            base[(r["w"], r["round"])] = r
    for r in rows:
        b = base.get((r["w"], r["round"]))
        if b and r["w"] == "rate" and "p50_us" in r:
            r["added_p50_us"], r["added_p99_us"] = r["p50_us"] - b["p50_us"], r["p99_us"] - b["p99_us"]
    summ, md = [], []
    for w in workloads:
        sel = [r for r in rows if r["w"] == w]
        if not sel:
            continue
        keys = sorted({(r["mode"], r["target"]) for r in sel}, key=lambda k: (["direct", "forward", "gateway-tls", "gateway"].index(k[0]), k[1]))
        body = []
        for m, t in keys:
            rs = [r for r in sel if (r["mode"], r["target"]) == (m, t)]
            calm = [r for r in rs if r.get("foreign", 0) < 0.25]  # samples taken while nothing else ran
            if len(calm) >= 3:
                rs = calm
            d = {"w": w, "mode": m, "target": t, "n": len(rs), "valid": sum(r["ok"] for r in rs), "errors": sum(r["errors"] for r in rs)}
            for c in COLS[w]:
                v = [r[c] for r in rs if c in r]
                if v:
                    d[c] = {"med": statistics.median(v), "min": min(v), "max": max(v)}
            summ.append(d)
            body.append(d)
        key = COLS[w][0] if w != "rate" else "added_p50_us"
        body.sort(key=lambda d: (["direct", "forward", "gateway-tls", "gateway"].index(d["mode"]), d.get(key, {"med": 1e18})["med"]))
        md += [f"### {w} (`{workloads[w][0]}`)", "", "| mode | target | " + " | ".join(COLS[w]) + " | valid |", "|---" * (len(COLS[w]) + 3) + "|"]
        for d in body:
            cells = []
            for i, c in enumerate(COLS[w]):
                x = d.get(c)
                cells.append("–" if not x else fmt(x["med"]) + (f" ({fmt(x['min'])}–{fmt(x['max'])})" if c in (key, "rps", "added_p99_us", "ev_p99_us") else ""))
            md.append(f"| {d['mode']} | {d['target']} | " + " | ".join(cells) + f" | {d['valid']}/{d['n']}{' err ' + str(d['errors']) if d['errors'] else ''} |")
        md.append("")
    if idle:
        md += ["### memory (MiB, RSS / PSS of the process tree)", "", "| target/mode | idle | 1,000 idle connections | 5,000 | KiB per connection |", "|---|---|---|---|---|"]
        for k, r in idle.items():
            c = [f"{r[x][0]:.0f} / {r[x][1]:.0f}" + (f" ({r[x][2]} held)" if len(r[x]) > 2 and r[x][3] else "") if x in r else "–" for x in ("0", "1000", "5000")]
            top = "5000" if "5000" in r else "1000"
            per = (r[top][1] - r["0"][1]) * 1024 / max(1, r[top][2]) if top in r else 0
            md.append(f"| {k} | " + " | ".join(c) + f" | {per:.1f} |")
        md.append("")
    out.with_suffix(".md").write_text("\n".join(md) + "\n")
    out.with_suffix(".json").write_text(json.dumps({"summary": summ, "idle": idle}, indent=1))


def ratios(summary):
    """Ours against each other target: CPU a request (or an event, or a gigabyte), where both were measured."""
    lines = ["", "CPU, ours / other, same run (1.00 is equal; less is better)"]
    of = {(d["w"], d["mode"], d["target"]): d for d in summary}
    for (w, mode, target), d in of.items():
        column = COLS[w][0] if w != "rate" else "cpu_us_per_req"
        if not target.startswith("ours") or column not in d:
            continue
        mine = d[column]["med"]
        cells = []
        for other in sorted({t for _, _, t in of if not t.startswith("ours") and t != "direct"}):
            theirs = of.get((w, mode, other), {}).get(column)
            if theirs and theirs["med"]:
                cells.append(f"{other} {fmt(theirs['med'])} -> {mine / theirs['med']:.2f}")
        p50 = f"  p50 {fmt(d['p50_us']['med'])} us" if "p50_us" in d else ""
        lines.append(f"  {w:8} {mode:12} {target:11} {fmt(mine):>7} {column:17} {'; '.join(cells)}{p50}  valid {d['valid']}/{d['n']}")
    return "\n".join(lines)
