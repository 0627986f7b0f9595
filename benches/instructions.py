#!/usr/bin/env python3
"""Counts the instructions of an exchange under callgrind, and holds them against what was recorded.

  benches/instructions.py                 fails if a count rose by more than 3 %
  benches/instructions.py --record        writes what is counted to benches/instructions.json
  benches/instructions.py --tokens 100000 the exchange alone, with so many other live tokens

A node runs under callgrind, and one agent and one upstream take turns with it: each waits until the node
has come to rest before it goes on, so that every exchange takes the same steps and wakes the same tasks.
Only the thread that does the work counts, without its ticks and less what else it does in the same time with nothing
to do; of several pieces, the one in the middle. The kernel isn't counted.

The crate is built with little optimisation, on the dependencies that the tests are built with. A release would take
ten minutes more to build, since nothing of it is there; this takes two or three. Counts are higher than a release's by half or
more, but every call, copy, allocation and hash of an exchange is in them, and a release follows.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "instructions.json"
PROFILES = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")) / "instructions"
TOLERANCE = 0.03
KEY = "sk-made-up-0123456789abcdefghijklmnopqrstuvwxyz"
# How long each side waits before its turn. Under callgrind the node takes about 3 ms for one, and longer where others
# have the machine.
REST = 0.008
# How many exchanges are made before it counts, in how many pieces it counts and how many there are in each, and for how
# many seconds nothing is done.
WARM, PIECES, COUNTED, IDLE = 40, 5, 40, 3
# What a core does ten times a second, whatever the exchanges.
TICK = "proxy::core::Core::tick"
# How often a piece of work is counted from its beginning where the node was starved in its midst.
TRIES = 10
# For this crate alone; what others are built with stays that of the tests.
PROFILE = {"opt-level": 1, "debug": "false", "debug-assertions": "false", "overflow-checks": "false"}


def build():
    options = [f"--config=profile.dev.package.sallyport.{k}={v}" for k, v in PROFILE.items()]
    cmd = ["cargo", "build", "--locked", "--example", "bench-node", "--message-format=json-render-diagnostics", *options]
    env = {**os.environ, "CARGO_INCREMENTAL": "0"}
    done = subprocess.run(cmd, cwd=HERE.parent, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit("the node doesn't build")
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return next(m["executable"] for m in made if m.get("target", {}).get("name") == "bench-node" and m.get("executable"))


def read_message(stream, buffer):
    """One HTTP message with a Content-Length; its head and body."""
    while b"\r\n\r\n" not in buffer:
        more = stream.recv(65536)
        if not more:
            raise EOFError
        buffer += more
    head, _, rest = bytes(buffer).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    length = int(length[1]) if length else 0
    while len(rest) < length:
        more = stream.recv(65536)
        if not more:
            raise EOFError
        rest += more
    buffer[:] = rest[length:]
    return head, rest[:length]


class Upstream:
    """Answers each request that holds the key, one connection after the other."""

    def __init__(self, certificate, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["http/1.1"])
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, args=(context,), daemon=True).start()

    def serve(self, context):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.answer, args=(context, connection), daemon=True).start()

    def answer(self, context, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        buffer = bytearray()
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                while True:
                    head, _ = read_message(stream, buffer)
                    good = f"\r\nauthorization: bearer {KEY}".lower().encode() in head.lower()
                    body = b'{"id":"req_0123456789","object":"thing","data":"%s"}' % (b"lorem ipsum " * int(re.search(rb"/bytes/(\d+)", head)[1]))
                    time.sleep(REST)
                    stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-key-ok: %d\r\n"
                                   b"content-length: %d\r\n\r\n%s" % (good, len(body), body))
        except (EOFError, OSError):
            pass


class Starved(Exception):
    """Others have the machine: the node, slow as it is here, didn't get to its own store for seconds."""


class Agent:
    """One agent with one open connection."""

    def __init__(self, node, port, mode, authorization):
        sock = socket.create_connection(("127.0.0.1", node.port + (mode != "forward")))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = f"localhost:{port}"
        if mode == "forward":
            sock.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            if not sock.recv(4096).startswith(b"HTTP/1.1 200"):
                sys.exit("the node refused CONNECT")
        context = ssl.create_default_context(cafile=str(node.dir / "ca.pem"))
        context.set_alpn_protocols(["http/1.1"])
        self.stream, self.buffer = context.wrap_socket(sock, server_hostname="localhost"), bytearray()
        self.prefix, self.count = "" if mode == "forward" else "/up", 0
        self.head = (f"Host: {host}\r\nauthorization: {authorization}\r\nuser-agent: agent/1.0\r\naccept: application/json\r\n")

    def exchange(self, method, path, body, vary=False):
        length = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        self.count += 1
        own = f"x-vary: {self.count:016}\r\n" if vary else ""
        self.stream.sendall(f"{method} {self.prefix}{path} HTTP/1.1\r\n{self.head}{own}{length}\r\n".encode() + body)
        head, _ = read_message(self.stream, self.buffer)
        if b"\r\nsallyport-error: store_unavailable\r\n" in head.lower() + b"\r\n":
            raise Starved
        if b" 200 " not in head.split(b"\r\n")[0] or b"x-key-ok: 1" not in head:
            sys.exit(f"an exchange failed: {head.decode(errors='replace')}")
        time.sleep(REST)


def of_ticks(profile):
    """Instructions of a core's ticks, with all they call: there are more of them in an exchange that takes longer."""
    names, callee, called, found = {}, "", False, 0
    for line in profile.splitlines():
        if named := re.match(r"c?fn=\((\d+)\)(?: (.*))?", line):
            names.setdefault(named[1], named[2] or "")
            callee = names[named[1]]
        elif called:
            found += int(line.split()[1]) if TICK in callee else 0
        called = line.startswith("calls=")
    return found


class Node:
    """Our node under callgrind."""

    def __init__(self, program, work, upstream, tokens):
        self.dir, self.out = work / "home", work / "callgrind"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.log = (work / "log").open("w+")
        cmd = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={self.out}", program,
               "--dir", self.dir, "--ca", work / "up-ca.pem", "--key", KEY, "--port", self.port,
               "--upstream", f"127.0.0.1:{upstream.port}", "--tokens", tokens]
        self.process = subprocess.Popen([str(c) for c in cmd], stdout=subprocess.DEVNULL, stderr=self.log)
        ready = self.dir / "authorization"
        while not ready.exists():
            if self.process.poll() is not None:
                self.log.seek(0)
                sys.exit(f"the node didn't start: {self.log.read()[-2000:]}")
            time.sleep(0.1)
        self.authorization = ready.read_text()

    def counted(self):
        """Instructions of each thread since the last call, and of them those of its ticks."""
        subprocess.run(["callgrind_control", "--dump", str(self.process.pid)], check=True, capture_output=True)
        counts = {}
        for file in self.out.parent.glob(self.out.name + "*"):
            text = file.read_text(errors="replace")
            thread, total = re.search(r"^thread: (\d+)", text, re.M), re.search(r"^(?:totals|summary): (\d+)", text, re.M)
            if thread and total:
                all_of, ticks = counts.get(thread[1], (0, 0))
                counts[thread[1]] = (all_of + int(total[1]), ticks + of_ticks(text))
                file.rename(file.parent / f"last-{thread[1]}")
        return counts

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


# name: mode, method, path, body, whether each request has a head of its own
WORK = {
    "forward, 300 B of JSON": ("forward", "GET", "/bytes/20", b"", False),
    "the same, another head each time": ("forward", "GET", "/bytes/20", b"", True),
    "gateway over TLS, 300 B of JSON": ("gateway-tls", "GET", "/bytes/20", b"", False),
    "forward, 2 KB in, 4 KB out": ("forward", "POST", "/bytes/335", b"b" * 2048, False),
}


def measured(node, upstream, what, idle, a):
    """What is recorded is the middle of three counts; what rose too far is counted twice more, and the least of them
    is held against that: what others do to the machine adds to a count and hardly ever takes away."""
    if a.record:
        return statistics.median(count(node, upstream, what, idle) for _ in range(3))
    found = count(node, upstream, what, idle)
    was = json.loads(BASELINE.read_text())["instructions"].get(what)
    for _ in range(2):
        if was and not a.tokens and found > was * (1 + TOLERANCE):
            found = min(found, count(node, upstream, what, idle))
    return found


def count(node, upstream, what, idle):
    for _ in range(TRIES):
        try:
            return count_once(node, upstream, what, idle)
        except Starved:
            time.sleep(IDLE)
    sys.exit("the node gets so little of this machine's time that it refuses requests; try again when others leave it more")


def count_once(node, upstream, what, idle):
    mode, *asked = WORK[what]
    agent = Agent(node, upstream.port, mode, node.authorization)
    for _ in range(WARM):
        agent.exchange(*asked)
    node.counted()
    found = []
    for _ in range(PIECES):
        began = time.monotonic()
        for _ in range(COUNTED):
            agent.exchange(*asked)
        took = time.monotonic() - began
        busy = node.counted()
        core = max(busy, key=busy.get)
        (work, ticks), (rest, idle_ticks) = busy[core], idle.get(core, (0, 0))
        if not idle_ticks:
            sys.exit(f"no {TICK} is seen in {IDLE} seconds; what a core does ten times a second has another name now")
        found.append((work - ticks - (rest - idle_ticks) * took / IDLE) / COUNTED)
    PROFILES.mkdir(parents=True, exist_ok=True)
    shutil.copy(node.out.parent / f"last-{core}", profile(what))
    # Where others have the machine, more is done in some pieces than in others.
    return statistics.median(found)


def profile(what):
    """Where the profile of a piece of work is kept until it is counted again."""
    return PROFILES / (re.sub(r"\W+", "-", what) + ".callgrind")


def setting():
    """What counts depend on beside the source."""
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"rustc": rustc, "machine": os.uname().machine}


def compare(found, kept):
    """Tells of each count; gives what rose too far."""
    risen = []
    for what, now in found.items():
        was = kept.get(what)
        change = now / was - 1 if was else float("inf")
        word = "ROSE" if change > TOLERANCE else "fell; worth recording" if change < -TOLERANCE else "as recorded"
        print(f"{what:32} {now:>9,.0f} instructions, {change * 100:+.2f} % of what is recorded: {word}")
        risen += [what] if change > TOLERANCE else []
    return risen


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--record", action="store_true")
    ap.add_argument("--tokens", type=int, default=0)
    ap.add_argument("--program", help="a node that is built already")
    a = ap.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("valgrind isn't there; install Debian's package `valgrind`")
    program = a.program or build()
    with tempfile.TemporaryDirectory(prefix="sallyport-instructions.") as work:
        work = Path(work)
        subprocess.run([str(HERE / "peers/ca.sh"), str(work)], check=True, capture_output=True)
        upstream = Upstream(work / "up.pem", work / "up.key")
        node = Node(program, work, upstream, a.tokens)
        try:
            node.counted()
            time.sleep(IDLE)
            idle = node.counted()
            found = {what: measured(node, upstream, what, idle, a) for what in list(WORK)[:1 if a.tokens else None]}
        finally:
            node.stop()
    if a.tokens:
        for what, n in found.items():
            print(f"{what}, {a.tokens:,} live tokens: {n:,.0f} instructions")
        return
    if a.record:
        BASELINE.write_text(json.dumps({"setting": setting(), "instructions": {w: round(n) for w, n in found.items()}}, indent=2) + "\n")
        print(f"recorded in {BASELINE}")
        return
    kept = json.loads(BASELINE.read_text())
    risen = compare(found, kept["instructions"])
    if kept["setting"] != setting():
        print(f"Not judged: recorded with {kept['setting']}, and this is {setting()}.")
    elif risen:
        sys.exit(f"An exchange takes over {TOLERANCE:.0%} more instructions than recorded, and every agent pays for that. Where they go:\n"
                 + "".join(f"    callgrind_annotate --inclusive=yes {profile(what)} | head -60\n" for what in risen)
                 + "If the change is worth it, record the new counts, and commit them with the reason:\n"
                   "    benches/instructions.py --record")


if __name__ == "__main__":
    main()
