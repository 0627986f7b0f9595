# A service that takes presigned URLs (AWS Signature Version 4, in the query) and works their signatures out
# again with botocore itself, from the pair in its environment. It says where it listens.
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

pair = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


class Verifier(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        signature = query.pop("X-Amz-Signature", "")
        scope = query.get("X-Amz-Credential", "").split("/")
        headers = {name: self.headers[name] for name in query.get("X-Amz-SignedHeaders", "").split(";") if name}
        host = "https://" + self.headers["host"]
        request = AWSRequest(self.command, host + url.path, headers, params=query)
        request.context["timestamp"] = query.get("X-Amz-Date")
        auth = S3SigV4QueryAuth(pair, scope[3], scope[2])
        wanted = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        good = scope[0] == pair.access_key and signature == wanted
        self.send_response(200 if good else 403)
        self.end_headers()
        self.wfile.write(b"signed well, %d bytes" % len(body) if good else b"SignatureDoesNotMatch")

    do_PUT = do_GET

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Verifier)
print(f"Running on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
