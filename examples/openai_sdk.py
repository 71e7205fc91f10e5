"""The OpenAI SDK against the gateway: another base URL, another key, the same code."""

from openai import OpenAI

from connection import from_command_line

gateway = from_command_line(__doc__)

client = OpenAI(base_url=gateway.base_url, api_key=gateway.key)
answer = client.embeddings.create(model=gateway.model, input=["A cat sat on the mat.", "Ein Hund lief durch den Park."])
for item in answer.data:
    print(item.index, len(item.embedding), item.embedding[:3])
print(answer.usage.total_tokens, "tokens")
