"""Chat completions: weigh, complete, stream."""
