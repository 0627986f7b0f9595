# Makes a directory that an HTTP server can serve as an index for pip, a registry for npm and one for cargo,
# each with one package, `bystander`. Arguments: the directory, and the URL under which it is served.
import hashlib
import io
import json
import os
import sys
import tarfile
import zipfile

root, url = sys.argv[1:]


def write(path, content):
    path = os.path.join(root, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def tar(folder, files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


# PEP 503, PEP 427.
wheel = io.BytesIO()
with zipfile.ZipFile(wheel, "w") as archive:
    archive.writestr("bystander.py", "print('pip works')\n")
    archive.writestr("bystander-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: bystander\nVersion: 1.0\n")
    archive.writestr("bystander-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    archive.writestr("bystander-1.0.dist-info/RECORD", "")
name = "bystander-1.0-py3-none-any.whl"
write(f"wheels/{name}", wheel.getvalue())
digest = hashlib.sha256(wheel.getvalue()).hexdigest()
write("simple/bystander/index.html", f'<a href="{url}/wheels/{name}#sha256={digest}">{name}</a>')

# The registry's document of a package, as npm reads it.
manifest = {"name": "bystander", "version": "1.0.0", "main": "index.js"}
packed = tar("package", {"package.json": json.dumps(manifest), "index.js": "console.log('npm works')\n"})
write("npm/bystander-1.0.0.tgz", packed)
dist = {"tarball": f"{url}/npm/bystander-1.0.0.tgz", "shasum": hashlib.sha1(packed).hexdigest()}
versions = {"1.0.0": {**manifest, "dist": dist}}
write("npm/bystander", json.dumps({"name": "bystander", "dist-tags": {"latest": "1.0.0"}, "versions": versions}))

# A sparse registry, as The Cargo Book has it under "Registry Index".
manifest = '[package]\nname = "bystander"\nversion = "1.0.0"\nedition = "2021"\n'
packed = tar("bystander-1.0.0", {"Cargo.toml": manifest, "src/lib.rs": "pub const SAYS: &str = \"cargo works\";\n"})
write("crates/bystander-1.0.0.crate", packed)
write("index/config.json", json.dumps({"dl": url + "/crates/{crate}-{version}.crate"}))
line = {"name": "bystander", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
line["cksum"] = hashlib.sha256(packed).hexdigest()
write("index/by/st/bystander", json.dumps(line) + "\n")
