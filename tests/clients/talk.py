# A WebSocket of `websockets` through the proxy, compressed as it is by default.
import asyncio
import os

import websockets


async def main():
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]}
    url = "wss://api.openai.com/v1/realtime?model=m"
    async with websockets.connect(url, additional_headers=headers, subprotocols=["realtime"]) as socket:
        await socket.send("hello " * 100)
        answer = await socket.recv()
        await socket.send(b"\x00\x01")
        assert await socket.recv() == b"\x00\x01"
        await (await socket.ping())
    print("answer:", answer.split("|")[0], socket.subprotocol, socket.close_code)


asyncio.run(main())
