//! The clients that are tried out, and what each of them reads.

/// A client, and how it makes a request. `URL` in its arguments stands for the address, `FILE` for a
/// file with its source.
pub struct Client {
    pub name: &'static str,
    pub program: &'static str,
    pub arguments: &'static [&'static str],
    /// The file's name and text.
    pub source: Option<(&'static str, &'static str)>,
    /// The settings by which it finds the proxy, and by which it trusts the CA.
    pub reads: [&'static str; 2],
}

const fn client(
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    reads: [&'static str; 2],
) -> Client {
    Client { name, program, arguments, source: None, reads }
}

pub const CLIENTS: &[Client] = &[
    client("curl", "curl", &["-sS", "-m", "10", "URL"], ["HTTPS_PROXY", "CURL_CA_BUNDLE"]),
    client("wget", "wget", &["-qO-", "-T10", "-t1", "URL"], ["https_proxy", "SYSTEM_WGETRC"]),
    client("git", "git", &["ls-remote", "URL"], ["https_proxy", "GIT_SSL_CAINFO"]),
    client(
        "python3 urllib",
        "python3",
        &["-c", "import urllib.request\nprint(urllib.request.urlopen('URL', timeout=10).read())"],
        ["HTTPS_PROXY", "SSL_CERT_FILE"],
    ),
    client(
        "python3 requests",
        "python3",
        &[
            "-c",
            "import sys\ntry: import requests\nexcept ImportError: sys.exit(77)\nprint(requests.get('URL', timeout=10))",
        ],
        ["HTTPS_PROXY", "REQUESTS_CA_BUNDLE"],
    ),
    client(
        "python3 httpx",
        "python3",
        &["-c", "import sys\ntry: import httpx\nexcept ImportError: sys.exit(77)\nprint(httpx.get('URL', timeout=10))"],
        ["HTTPS_PROXY", "SSL_CERT_FILE"],
    ),
    client(
        "python3 aiohttp (trust_env=True)",
        "python3",
        &[
            "-c",
            "import asyncio, sys\ntry: import aiohttp\nexcept ImportError: sys.exit(77)\nasync def main():\n async with \
             aiohttp.ClientSession(trust_env=True) as s:\n  print((await s.get('URL')).status)\nasyncio.run(main())",
        ],
        ["HTTPS_PROXY", "SSL_CERT_FILE"],
    ),
    client(
        "pip",
        "python3",
        &[
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--retries=0",
            "--timeout=10",
            "--index-url=URL/simple",
            "--dest=/dev/null",
            "nothing-of-this-name",
        ],
        ["HTTPS_PROXY", "PIP_CERT"],
    ),
    client(
        "node fetch",
        "node",
        &[
            "-e",
            "fetch('URL').then(r => r.text()).then(console.log, e => { console.error(e.cause ?? e); process.exit(1) })",
        ],
        ["NODE_USE_ENV_PROXY (Node 24, or 22.21 and later)", "NODE_EXTRA_CA_CERTS"],
    ),
    client(
        "node https",
        "node",
        &[
            "-e",
            "require('https').get('URL', r => r.pipe(process.stdout)).on('error', e => { console.error(e); process.exit(1) })",
        ],
        ["NODE_USE_ENV_PROXY (Node 24.5, or 22.21 and later)", "NODE_EXTRA_CA_CERTS"],
    ),
    client(
        "node https (agent of its own)",
        "node",
        &[
            "-e",
            "const https = require('https'); https.get('URL', { agent: new https.Agent() }, r => r.pipe(process.stdout))\
             .on('error', e => { console.error(e); process.exit(1) })",
        ],
        ["NODE_OPTIONS (Node 24.5, or 22.21 and later)", "NODE_EXTRA_CA_CERTS"],
    ),
    client("npm", "npm", &["ping", "--registry=URL/", "--fetch-retries=0"], ["HTTPS_PROXY", "npm_config_cafile"]),
    client("deno", "deno", &["eval", "console.log(await (await fetch('URL')).text())"], ["HTTPS_PROXY", "DENO_CERT"]),
    client(
        "bun",
        "bun",
        &["-e", "console.log(await (await fetch('URL')).text())"],
        ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"],
    ),
    Client {
        name: "java HttpClient",
        program: "java",
        arguments: &["FILE"],
        source: Some((
            "Doctor.java",
            "import java.net.*; import java.net.http.*;\npublic class Doctor { public static void main(String[] a) throws \
             Exception {\n System.out.println(HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create(\"URL\"))\
             .build(), HttpResponse.BodyHandlers.ofString()).body()); } }\n",
        )),
        reads: ["JAVA_TOOL_OPTIONS (https.proxyHost)", "JAVA_TOOL_OPTIONS (javax.net.ssl.trustStore)"],
    },
    Client {
        name: "go net/http",
        program: "go",
        arguments: &["run", "FILE"],
        source: Some((
            "doctor.go",
            "package main\nimport (\"fmt\"; \"net/http\"; \"os\")\nfunc main() { r, err := http.Get(\"URL\"); if err != nil { \
             fmt.Fprintln(os.Stderr, err); os.Exit(1) }; fmt.Println(r.Status) }\n",
        )),
        reads: ["HTTPS_PROXY", "SSL_CERT_FILE"],
    },
    client(
        "ruby net/http",
        "ruby",
        &["-rnet/http", "-e", "puts Net::HTTP.get(URI('URL'))"],
        ["https_proxy", "SSL_CERT_FILE"],
    ),
    client(
        "php curl",
        "php",
        &["-r", "if (!function_exists('curl_init')) exit(77); $c = curl_init('URL'); exit(curl_exec($c) ? 0 : 1);"],
        ["HTTPS_PROXY", "SSL_CERT_FILE"],
    ),
    client("cargo", "cargo", &["search", "nothing", "--index", "sparse+URL/"], ["HTTPS_PROXY", "CARGO_HTTP_CAINFO"]),
    client(
        "aws",
        "aws",
        &["s3api", "list-buckets", "--endpoint-url=URL", "--no-sign-request", "--region=us-east-1"],
        ["HTTPS_PROXY", "AWS_CA_BUNDLE"],
    ),
];
