"""Draws ratios as dots on a logarithmic scale: a row a piece of work, a colour a program."""
import math
from html import escape

COLOURS = {"ours": "#c0392b", "bare": "#7f8c8d", "nginx": "#1e8449", "haproxy": "#2471a3", "squid": "#8e44ad",
           "mitmproxy": "#b9770e", "hudsucker": "#117a65", "limit": "#2c3e50"}
LEFT, RIGHT, TOP, ROW = 370, 30, 92, 26
WIDTH = 980


def svg(rows, names, head):
    """An SVG of rows (what, unit, base, goal, {target: figure}, {target: ratio to the base})."""
    shown = [(what, base, goal, {t: ratio for t, ratio in ratios.items() if t in COLOURS and t != base})
             for what, _, base, goal, _, ratios in rows]
    every = [r for *_, of in shown for r in of.values() if r > 0] or [1]
    low, high = min(0.8, *every) * 0.95, max(2, *every) * 1.1
    across = WIDTH - LEFT - RIGHT
    height = TOP + ROW * len(shown) + 40
    bottom = TOP + ROW * len(shown)

    def x(ratio):
        return LEFT + across * math.log(max(ratio, low) / low) / math.log(high / low)

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
           '<text x="16" y="24" font-size="16" font-weight="bold">Cost of an exchange, as a multiple of the limit</text>',
           f'<text x="16" y="42" fill="#555" font-size="11">{escape(head)}</text>']
    at = 16
    for t in [t for t in COLOURS if any(t in of for *_, of in shown)]:
        out.append(f'<circle cx="{at + 5}" cy="62" r="5" fill="{COLOURS[t]}"/>'
                   f'<text x="{at + 15}" y="66">{escape(names.get(t, t))}</text>')
        at += 40 + 7 * len(names.get(t, t))
    out.append(f'<path d="M{at + 5} 55v14" stroke="#c0392b" stroke-width="2"/><text x="{at + 12}" y="66">goal for sallyport</text>')
    for tick in (0.5, 0.8, 1, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500):
        if low <= tick <= high:
            out.append(f'<path d="M{x(tick):.1f} {TOP - 8}V{bottom}" stroke="{"#888" if tick == 1 else "#e5e5e5"}"/>'
                       f'<text x="{x(tick):.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555">{tick:g}</text>')
    for number, (what, base, goal, of) in enumerate(shown):
        y = TOP + ROW * number + ROW / 2
        label = what if base == "limit" else f"{what} (of {base})"
        out.append(f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
                   f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#f0f0f0"/>')
        if isinstance(goal, float):
            out.append(f'<path d="M{x(goal):.1f} {y - 9:.1f}v18" stroke="#c0392b" stroke-width="2"/>')
        for t, ratio in sorted(of.items(), key=lambda r: r[0] == "ours"):
            if ratio > 0:
                out.append(f'<circle cx="{x(ratio):.1f}" cy="{y:.1f}" r="{6 if t == "ours" else 5}" fill="{COLOURS[t]}" '
                           f'fill-opacity="0.9"><title>{escape(names.get(t, t))}: {ratio:.2f}</title></circle>')
    out.append("</svg>")
    return "\n".join(out) + "\n"
