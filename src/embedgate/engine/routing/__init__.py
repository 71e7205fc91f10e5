"""Routes of a model: which there are, in which order they are tried, how they are doing."""
