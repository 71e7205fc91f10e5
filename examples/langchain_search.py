"""LangChain against the gateway: OpenAIEmbeddings with its defaults, and a vector store in memory.

Needs `pip install langchain-openai`. With its defaults LangChain sends token ids instead of text, and the gateway turns
them back into text for models that read text. To make them, tiktoken downloads its table of tokens on first use. Where
that is not possible, `OpenAIEmbeddings(..., check_embedding_ctx_length=False)` sends the text itself.
"""

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from connection import from_command_line

TEXTS = [
    "The library lends books for four weeks.",
    "Swimming lessons for children start in May.",
    "The town hall is closed on public holidays.",
    "Old batteries can be handed in at the recycling yard.",
]

gateway = from_command_line(__doc__)
embeddings = OpenAIEmbeddings(
    model=gateway.model, openai_api_base=gateway.base_url, openai_api_key=SecretStr(gateway.key)
)
store = InMemoryVectorStore.from_texts(TEXTS, embeddings)

for document, score in store.similarity_search_with_score("How long may I keep a novel?", k=2):
    print(f"{score:.3f}  {document.page_content}")
