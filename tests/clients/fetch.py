# requests and httpx, with nothing set but their environment.
import os

import httpx
import requests

headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
first = requests.get("https://api.openai.com/v1/models", headers=headers, timeout=20)
with httpx.Client(timeout=20) as client:
    second = client.get("https://api.openai.com/v1/models", headers=headers)
print("answer:", first.json()["object"], second.json()["object"])
print("environment:", sorted(os.environ.items()))
