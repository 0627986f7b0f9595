# The OpenAI SDK, with nothing set but its environment: a plain call and a stream.
import os

import openai

client = openai.OpenAI(max_retries=0)
answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
stream = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
print("answer:", answer.choices[0].message.content, "/", text)
print("environment:", sorted(os.environ.items()))
