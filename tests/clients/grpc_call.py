# The four kinds of gRPC calls, with the token in metadata. `released` and `met` are calls that the service
# answers once something of another call has arrived: if messages were held back, both would wait for ever.
import os
import queue

import grpc

BEARER = ("authorization", "Bearer " + os.environ["OPENAI_API_KEY"])
channel = grpc.secure_channel("api.openai.com:443", grpc.ssl_channel_credentials())
LIMIT = 20


def name(method):
    return "/test.Talk/" + method


def unary(method, message, metadata=(BEARER,)):
    return channel.unary_unary(name(method)).with_call(message, metadata=metadata, timeout=LIMIT)


answer, call = unary("unary", b"hello")
late = dict(call.trailing_metadata())["x-late"]
first = dict(call.initial_metadata())["x-first"]
print("unary:", answer.decode(), first, late, call.code().name)


def upload():
    yield b"a"
    unary("met", b"")
    yield b"b"


print("up:", channel.stream_unary(name("up"))(upload(), metadata=[BEARER], timeout=LIMIT).decode())

download = channel.unary_stream(name("down"))(b"", metadata=[BEARER], timeout=LIMIT)
got = [next(download)]
unary("released", b"")
got += list(download)
print("down:", b" ".join(got).decode())

# Ping-pong: each message is sent when the answer to the one before it has come.
heard = []
said = queue.Queue()
answers = channel.stream_stream(name("talk"))(iter(said.get, None), metadata=[BEARER], timeout=LIMIT)
for turn in range(5):
    said.put(str(turn).encode())
    heard.append(next(answers))
said.put(None)
assert list(answers) == []
print("talk:", b" ".join(heard).decode(), answers.code().name)

big, _ = unary("unary", b"x" * (3 << 20))
print("big:", len(big))

for what, metadata in [("fails", (BEARER,)), ("unary", (("authorization", "Bearer sk-a-stray-real-key"),))]:
    try:
        unary(what, b"", metadata)
    except grpc.RpcError as error:
        print("error:", what, error.code().name, error.details())

held = channel.stream_stream(name("talk"))(iter(said.get, None), metadata=[BEARER], timeout=LIMIT)
said.put(b"left")
next(held)
held.cancel()
print("left:", unary("left", b"")[0].decode())
said.put(None)
