# One Python client, named by the argument: a call, then a stream where it has one. Nothing is set but its
# environment.
import asyncio
import os
import sys

MESSAGES = [{"role": "user", "content": "hi"}]
MODELS = "https://api.openai.com/v1/models"
STREAM = MODELS + "?stream"
HEADERS = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}


def say(*words):
    print(*words, flush=True)


def openai():
    import openai

    client = openai.OpenAI(max_retries=0)
    say("answer:", client.chat.completions.create(model="m", messages=MESSAGES).choices[0].message.content)
    for chunk in client.chat.completions.create(model="m", messages=MESSAGES, stream=True):
        say("piece:", chunk.choices[0].delta.content)


def anthropic():
    import anthropic

    client = anthropic.Anthropic(max_retries=0)
    say("answer:", client.messages.create(model="m", max_tokens=10, messages=MESSAGES).content[0].text)
    with client.messages.stream(model="m", max_tokens=10, messages=MESSAGES) as stream:
        for text in stream.text_stream:
            say("piece:", text)


def google():
    from google import genai

    client = genai.Client()
    say("answer:", client.models.generate_content(model="m", contents="hi").text)
    for chunk in client.models.generate_content_stream(model="m", contents="hi"):
        say("piece:", chunk.text)


def stripe():
    import stripe

    # It brings its own list of authorities and heeds no variable for it, so it has to be told.
    stripe.ca_bundle_path = os.environ["SSL_CERT_FILE"]
    client = stripe.StripeClient(os.environ["STRIPE_API_KEY"], max_network_retries=0)
    charge = client.v1.charges.create({"amount": 100, "currency": "eur", "source": "tok_visa"})
    say("answer:", charge.description)


def github():
    import github

    client = github.Github(auth=github.Auth.Token(os.environ["GITHUB_TOKEN"]), retry=None)
    say("answer:", client.get_user().login)


def requests():
    import requests

    say("answer:", requests.get(MODELS, headers=HEADERS, timeout=60).json()["seen"])
    with requests.get(STREAM, headers=HEADERS, timeout=60, stream=True) as reply:
        for line in reply.iter_lines(chunk_size=None):
            say("piece:", line.decode())


def httpx():
    import httpx

    with httpx.Client(timeout=60) as client:
        say("answer:", client.get(MODELS, headers=HEADERS).json()["seen"])
        with client.stream("GET", STREAM, headers=HEADERS) as reply:
            for line in reply.iter_lines():
                say("piece:", line)


def aiohttp():
    import aiohttp

    async def main():
        async with aiohttp.ClientSession(trust_env=True, headers=HEADERS) as session:
            async with session.get(MODELS) as reply:
                say("answer:", (await reply.json())["seen"])
            async with session.get(STREAM) as reply:
                async for line in reply.content:
                    say("piece:", line.decode().strip())

    asyncio.run(main())


globals()[sys.argv[1]]()
say("environment:", sorted(os.environ.items()))
