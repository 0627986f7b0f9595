# One agent framework, named by the argument: a completion, then a streamed one. Nothing is set but its
# environment, and that nothing is reported to its makers.
import asyncio
import os
import sys

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"


def say(*words):
    print(*words, flush=True)


def langchain():
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model="m", max_retries=0)
    say("answer:", model.invoke("hi").content)
    for chunk in model.stream("hi"):
        say("piece:", chunk.content)


def llamaindex():
    from llama_index.llms.openai import OpenAI

    model = OpenAI(model="gpt-4o", max_retries=0)
    say("answer:", model.complete("hi").text)
    for chunk in model.stream_complete("hi"):
        say("piece:", chunk.delta)


def haystack():
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage

    messages = [ChatMessage.from_user("hi")]
    say("answer:", OpenAIChatGenerator(model="m", max_retries=0).run(messages)["replies"][0].text)
    streamed = OpenAIChatGenerator(
        model="m", max_retries=0, streaming_callback=lambda chunk: say("piece:", chunk.content)
    )
    streamed.run(messages)


def autogen():
    from autogen_agentchat.agents import AssistantAgent
    from autogen_agentchat.messages import ModelClientStreamingChunkEvent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    async def main():
        model = OpenAIChatCompletionClient(model="gpt-4o", max_retries=0)
        result = await AssistantAgent("a", model).run(task="hi")
        say("answer:", result.messages[-1].content)
        streamed = AssistantAgent("b", model, model_client_stream=True)
        async for event in streamed.run_stream(task="hi"):
            if isinstance(event, ModelClientStreamingChunkEvent):
                say("piece:", event.content)
        await model.close()

    asyncio.run(main())


globals()[sys.argv[1]]()
say("environment:", sorted(os.environ.items()))
