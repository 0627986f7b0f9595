# URLs that boto3 signs, used by a client that knows nothing of AWS. Nothing is set but its environment.
import os
import urllib.request
from urllib.error import HTTPError

import boto3
from botocore.config import Config

config = Config(signature_version="s3v4", s3={"addressing_style": "path"})
s3 = boto3.client("s3", region_name="us-east-1", endpoint_url="https://s3.us-east-1.amazonaws.com", config=config)
for operation, method, body in [("get_object", "GET", None), ("put_object", "PUT", b"hello")]:
    where = {"Bucket": "things", "Key": "a b/c+d~é.txt"}
    url = s3.generate_presigned_url(operation, Params=where, ExpiresIn=600)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method), timeout=60) as reply:
            print("answer:", method, reply.read().decode())
    except HTTPError as why:
        print("answer:", method, why.code, why.read().decode())
print("environment:", sorted(os.environ.items()))
