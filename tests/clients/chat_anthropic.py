# The Anthropic SDK, with nothing set but its environment.
import os

import anthropic

answer = anthropic.Anthropic(max_retries=0).messages.create(
    model="m", max_tokens=10, messages=[{"role": "user", "content": "hi"}]
)
print("answer:", answer.content[0].text)
print("environment:", sorted(os.environ.items()))
