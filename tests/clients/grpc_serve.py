# A gRPC service behind TLS: grpc_serve.py CHAIN KEY. It prints its port, and then the credential of each call. It
# repeats the credential wherever a careless service could.
import sys
import threading
from concurrent import futures

import grpc

arrived, released, left = threading.Event(), threading.Event(), threading.Event()
LIMIT = 20


def unary(message, context, seen):
    return message + b" " + seen.encode()


def up(messages, context, seen):
    all = [next(messages)]
    arrived.set()
    all += list(messages)
    return b" ".join(all)


def met(message, context, seen):
    assert arrived.wait(LIMIT)
    return b""


def down(message, context, seen):
    yield b"first"
    assert released.wait(LIMIT)
    yield b"second " + seen.encode()


def release(message, context, seen):
    released.set()
    return b""


def talk(messages, context, seen):
    context.add_callback(left.set)
    for message in messages:
        if message == b"left":
            left.clear()
        yield b"<" + message + b">"


def was_left(message, context, seen):
    return str(left.wait(LIMIT)).encode()


def fails(message, context, seen):
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more for " + seen)


METHODS = {
    "unary": (grpc.unary_unary_rpc_method_handler, unary),
    "up": (grpc.stream_unary_rpc_method_handler, up),
    "met": (grpc.unary_unary_rpc_method_handler, met),
    "down": (grpc.unary_stream_rpc_method_handler, down),
    "released": (grpc.unary_unary_rpc_method_handler, release),
    "talk": (grpc.stream_stream_rpc_method_handler, talk),
    "left": (grpc.unary_unary_rpc_method_handler, was_left),
    "fails": (grpc.unary_unary_rpc_method_handler, fails),
}


class Service(grpc.GenericRpcHandler):
    def service(self, called):
        kind, work = METHODS[called.method.rpartition("/")[2]]
        seen = dict(called.invocation_metadata)["authorization"]
        print(called.method, seen, flush=True)

        def begin(context):
            context.send_initial_metadata([("x-first", seen)])
            context.set_trailing_metadata([("x-late", seen)])

        def whole(request, context):
            begin(context)
            return work(request, context, seen)

        def pieces(request, context):
            begin(context)
            yield from work(request, context, seen)

        return kind(pieces if work in (down, talk) else whole)


with open(sys.argv[1], "rb") as chain, open(sys.argv[2], "rb") as key:
    credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[Service()])
port = server.add_secure_port("127.0.0.1:0", credentials)
server.start()
print(port, flush=True)
# Until whoever started it is gone.
sys.stdin.read()
