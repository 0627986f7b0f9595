# boto3, with nothing set but its environment: signed headers, parts, and bodies with and without a hash.
import io
import os

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

os.environ["AWS_ENDPOINT_URL_S3"] = "https://s3.us-east-1.amazonaws.com"
what = os.environ.get("WHAT", "all")
config = Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"})
say = lambda *words: print("answer:", *words, flush=True)

sts = boto3.client("sts", region_name="us-east-1", config=config)
say("sts", sts.get_caller_identity()["Account"])
if what == "roles":
    import botocore.exceptions
    import botocore.parsers

    for call in (
        lambda: sts.assume_role(RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="session"),
        lambda: sts.get_session_token(),
        lambda: boto3.client("iam", region_name="us-east-1", config=config).create_access_key(UserName="u"),
    ):
        try:
            say("credentials", *sorted(call().keys()))
        # The refusal is JSON and these services answer in XML, so boto3 shows it as it is.
        except (botocore.exceptions.ClientError, botocore.parsers.ResponseParserError) as why:
            say("refused", "credentials_withheld" if "credentials_withheld" in str(why) else why)
if what == "all":
    s3 = boto3.client("s3", region_name="us-east-1", config=config)
    s3.create_bucket(Bucket="things")
    # The default of boto3: STREAMING-UNSIGNED-PAYLOAD-TRAILER over TLS.
    s3.put_object(Bucket="things", Key="a b/c+d~é.txt", Body=io.BytesIO(b"hello" * 1000))
    say("get", len(s3.get_object(Bucket="things", Key="a b/c+d~é.txt")["Body"].read()))
    # A declared hash.
    signed = boto3.client(
        "s3",
        region_name="us-east-1",
        config=config.merge(Config(s3={"payload_signing_enabled": True}, request_checksum_calculation="when_required")),
    )
    signed.put_object(Bucket="things", Key="signed", Body=b"signed", Metadata={"a": "b  c"})
    say("listed", *[o["Key"] for o in s3.list_objects_v2(Bucket="things", Prefix="s")["Contents"]])
    # Parts.
    small = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=3)
    s3.upload_fileobj(io.BytesIO(os.urandom(11 << 20)), "things", "parts", Config=small)
    say("parts", s3.head_object(Bucket="things", Key="parts")["ContentLength"])
    # A body whose hash isn't declared.
    db = boto3.client("dynamodb", region_name="us-east-1", config=config)
    db.create_table(
        TableName="t",
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    db.put_item(TableName="t", Item={"k": {"S": "x"}, "v": {"S": "y" * 100000}})
    say("item", len(db.get_item(TableName="t", Key={"k": {"S": "x"}})["Item"]["v"]["S"]))
print("environment:", sorted(os.environ.items()))
