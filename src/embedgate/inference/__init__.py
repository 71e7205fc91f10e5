"""Models on this machine: their files, tokenizers and engines. Importing it opens no file, thread or model."""
