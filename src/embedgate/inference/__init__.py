"""Local inference: model files, tokenizers and engines. Importing it opens no file, thread or model."""
