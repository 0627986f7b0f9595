"""Swaps the placeholder for the key and streams bodies both ways."""
import os

KEY = os.environ["BENCH_KEY"]


def requestheaders(flow):
    headers = flow.request.headers
    if headers.get("authorization", "") == "Bearer PLACEHOLDER":
        headers["authorization"] = f"Bearer {KEY}"
    flow.request.stream = True


def responseheaders(flow):
    flow.response.stream = True
