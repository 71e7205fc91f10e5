"""Provider vendors: one module of pure translation each, and a table of those that speak the OpenAI format."""
