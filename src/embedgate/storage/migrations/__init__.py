"""The history of the schema, run by `storage.migrate`. A migration that was released is never edited."""
