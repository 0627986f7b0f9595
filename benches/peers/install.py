"""Builds what is ours and brings the peers, each into a folder of its own under `peers/` in Cargo's target folder.

Nothing is installed into the system, and no service is started: a Debian package that isn't there is fetched
with what it needs and unpacked. A peer that can't be had is left out, and the reason is told.
"""
import os
import shutil
import subprocess
from pathlib import Path

BENCH = Path(__file__).resolve().parent
REPO = BENCH.parent.parent
BUILT = Path(os.environ.get("CARGO_TARGET_DIR", REPO / "target"))
PEERS = BUILT / "peers"
LOADGEN = BUILT / "loadgen/release/loadgen"
NODE = BUILT / "release/examples/bench-node"
HUDSUCKER = PEERS / "hudsucker/release/peer-hudsucker"
MITMPROXY = PEERS / "mitmproxy"
# package, program, words that its -v must say
DEBIAN = {"nginx": ("nginx-light", "nginx", ""), "haproxy": ("haproxy", "haproxy", ""),
          "squid": ("squid-openssl", "squid", "--with-openssl")}


class Missing(Exception):
    """Why a peer can't be had."""


def run(*cmd, **options):
    done = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, **options)
    if done.returncode:
        raise Missing(f"{' '.join(map(str, cmd[:3]))}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def cargo(manifest, into):
    done = subprocess.run(["cargo", "build", "--release", "--locked", "-q", "--manifest-path", str(manifest),
                           "--target-dir", str(into)])
    if done.returncode:
        raise Missing(f"{manifest} doesn't build")


def ours():
    """The load generator and our node, as shipped but for the names that profilers need."""
    cargo(BENCH / "loadgen/Cargo.toml", BUILT / "loadgen")
    subprocess.run(["cargo", "build", "--profile", "bench", "--locked", "-q", "--example", "bench-node"],
                   check=True, cwd=REPO)


def debian(name):
    """The folder that a Debian program's files are in: `/` if the system has it, else one of its own."""
    package, program, words = DEBIAN[name]
    found = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if found and words in subprocess.run([found, "-v"], capture_output=True, text=True).stdout:
        return Path("/")
    root = PEERS / name
    if (root / "usr/sbin" / program).exists():
        return root
    if not shutil.which("apt-get"):
        raise Missing("no Debian")
    lacking = ["apt-get", "install", "-s", "--no-install-recommends", package]
    if subprocess.run(lacking, capture_output=True).returncode:
        run(*([] if os.getuid() == 0 else ["sudo"]), "apt-get", "update", "-qq")
    # `Inst NAME (VERSION ..)` is fresh; `Inst NAME [OLD] (VERSION ..)` is there already.
    lines = [line.split() for line in run(*lacking).splitlines() if line.startswith("Inst ")]
    names = [words[1] for words in lines if words[2].startswith("(")]
    parts = root.with_suffix(".part")
    shutil.rmtree(parts, ignore_errors=True)
    (parts / "debs").mkdir(parents=True)
    run("apt-get", "download", "-qq", *names, cwd=parts / "debs")
    for deb in (parts / "debs").glob("*.deb"):
        run("dpkg", "-x", deb, parts)
    shutil.rmtree(parts / "debs")
    parts.rename(root)
    return root


def mitmproxy():
    """mitmproxy in a Python of its own."""
    wanted = (BENCH / "conf/mitmproxy.txt").read_text()
    note = MITMPROXY / "installed"
    if note.exists() and note.read_text() == wanted:
        return
    shutil.rmtree(MITMPROXY, ignore_errors=True)
    run("python3", "-m", "venv", MITMPROXY)
    run(MITMPROXY / "bin/pip", "install", "-q", "--disable-pip-version-check", "-r", BENCH / "conf/mitmproxy.txt")
    note.write_text(wanted)


def peer(name, names):
    """Brings what a target needs; adds the places to `names`, which target files use.

    Raises `Missing` with the reason if it can't be had.
    """
    if name in DEBIAN:
        root = str(debian(name)).rstrip("/")
        names[name.upper()] = root
        names[f"{name.upper()}_LIB"] = ":".join(map(str, Path(root, "usr/lib").glob("*-linux-gnu"))) if root else "/lib"
    elif name == "mitmproxy":
        mitmproxy()
    elif name == "hudsucker":
        cargo(BENCH / "hudsucker/Cargo.toml", PEERS / "hudsucker")


def version(name, names):
    """What a peer calls itself, in few words."""
    root = names.get(name.upper(), "")
    env = {**os.environ, "LD_LIBRARY_PATH": names.get(f"{name.upper()}_LIB", "")}
    def say(*cmd):
        done = subprocess.run(cmd, capture_output=True, text=True, env=env)
        return (done.stdout + done.stderr).strip().splitlines()
    if name == "nginx":
        return say(f"{root}/usr/sbin/nginx", "-v")[0].split(": ")[-1].replace("/", " ")
    if name == "haproxy":
        return " ".join(say(f"{root}/usr/sbin/haproxy", "-v")[0].split()[:3]).replace(" version", "")
    if name == "squid":
        return say(f"{root}/usr/sbin/squid", "-v")[0].replace("Squid Cache: Version", "squid")
    if name == "mitmproxy":
        return (BENCH / "conf/mitmproxy.txt").read_text().strip().replace("==", " ")
    if name == "hudsucker":
        lock = (BENCH / "hudsucker/Cargo.lock").read_text()
        return "hudsucker " + lock.split('name = "hudsucker"\nversion = "')[1].split('"')[0]
    return None
