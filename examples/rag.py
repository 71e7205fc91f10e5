"""Answer a question from texts of one's own: embed them, find the two nearest, and let a chat model read only those.

The vectors come from `--model`, the answer from `--chat-model`, both through the gateway.
"""

import numpy as np
from openai.types.chat import ChatCompletionMessageParam

from connection import from_command_line

DOCUMENTS = [
    "Requests are sent to the cheapest provider that serves the chosen model.",
    "An invoice with the token usage of every team is drawn up at the end of the month.",
    "If a provider stops responding, traffic is switched to a backup automatically.",
    "Log lines hold lengths and request ids, never the text that was sent.",
    "Each application gets a key of its own, which can be revoked at any time.",
    "Long lists of texts are split into batches that the provider accepts.",
]
QUESTION = "What happens when a model goes down?"
INSTRUCTION = "Answer from the context alone. If it does not hold the answer, say so."

gateway = from_command_line(__doc__)
client = gateway.client()


def embed(texts: list[str]) -> np.ndarray:
    """One vector per text, shape (n, d), in the order of the texts."""
    answer = client.embeddings.create(model=gateway.model, input=texts)
    return np.array([item.embedding for item in answer.data])


# The vectors have length 1, so that the dot product is the cosine of the angle between them: 1 means the same.
scores = embed(DOCUMENTS) @ embed([QUESTION])[0]
context = "\n".join(DOCUMENTS[position] for position in np.argsort(-scores)[:2])

messages: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": INSTRUCTION},
    {"role": "user", "content": f"Context:\n{context}\n\nQuestion: {QUESTION}"},
]
print(QUESTION)
with client.chat.completions.create(model=gateway.chat_model, messages=messages, stream=True) as stream:
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
