"""Which questions the embedded model finds to be about some texts, and which not: those that `ask` answers."""

from pathlib import Path

import pytest

from embedgate import LocalEmbedder
from embedgate.toolkit import Collections, Record, read_files, retrieve
from embedgate.toolkit.collections.sources import in_pieces
from embedgate.toolkit.splitting import Splitter
from forms import scaled

ROOT = Path(__file__).parents[3]
ABOUT_SUPPORT = (
    "Why was my card charged twice?",
    "How can I return a product?",
    "Where is my parcel?",
    "I forgot my password",
    "Can I change my delivery address?",
    "The app crashes when I open it",
    "How do I cancel my subscription?",
    "My discount code does not work",
    "I received the wrong item",
    "When will I get my refund?",
    "How do I delete my account?",
    "Do you ship abroad?",
    "The parcel arrived damaged",
    "I did not get an invoice",
    "How do I contact support by phone?",
    "My payment was declined",
    "How do I change my email address?",
    "The website is slow",
    "Can I pay by invoice?",
    "I never got the confirmation email",
)
ABOUT_DOCS = (
    "How do I set a monthly budget for a user?",
    "Where are cached vectors kept on disk?",
    "What happens when the disk is full?",
    "How can I rotate an API key?",
    "Which providers are supported?",
    "How do I run a local embedding model?",
    "What is a vector space here?",
    "How does failover between providers work?",
    "Can I use the OpenAI Python SDK with it?",
    "How do I rerank documents?",
    "How do I write a Cedar policy?",
    "How are prices of models set?",
    "What does the audit trail record?",
    "How do I move a collection to another model?",
    "How do I find near duplicates?",
    "How are texts split into pieces?",
    "What exit codes does the program have?",
    "How do I add a new provider?",
    "How long does the gateway wait for a slow provider?",
    "Is anything sent to you as telemetry?",
)
ABOUT_NEITHER = (
    "What is the capital of France?",
    "How do I bake sourdough bread?",
    "Who won the football world cup in 2014?",
    "What are the symptoms of the flu?",
    "How far away is the moon?",
    "Which tyres should I buy for winter?",
    "How do I train my puppy not to bite?",
    "What is the plot of Hamlet?",
    "Why is the sky blue?",
    "How many calories does an avocado have?",
    "When was the Berlin wall built?",
    "How do I change a bicycle tube?",
    "What is the best time to visit Japan?",
    "How do vaccines work?",
    "Who painted the Mona Lisa?",
    "How tall is Mount Everest?",
    "What does the heart do in the human body?",
    "How do I grow tomatoes on a balcony?",
    "Which key is a flute usually tuned in?",
    "What is the average rainfall in Lisbon?",
)


def support(_: LocalEmbedder) -> list[Record]:
    return read_files([ROOT / "examples" / "support_messages.csv"])


def docs(embedder: LocalEmbedder) -> list[Record]:
    return in_pieces(read_files([ROOT / "docs"]), Splitter(embedder.tokenizer, embedder.max_input_tokens))


@pytest.mark.hostile
@pytest.mark.parametrize("about", scaled(["support"], ["support", "docs"]))
def test_of_twenty_questions_each_at_least_eighteen_are_told_right(about: str, tmp_path: Path) -> None:
    embedder = LocalEmbedder(data_dir=tmp_path)
    records, asked = (support, ABOUT_SUPPORT) if about == "support" else (docs, ABOUT_DOCS)
    with Collections(tmp_path).create(about, embedder) as collection:
        collection.add(records(embedder))
        answered = [question for question in asked if retrieve(collection, question, 1).passages]
        refused = [question for question in ABOUT_NEITHER if not retrieve(collection, question, 1).passages]
    assert len(answered) >= 18, {*asked} - {*answered}
    assert len(refused) >= 18, {*ABOUT_NEITHER} - {*refused}
