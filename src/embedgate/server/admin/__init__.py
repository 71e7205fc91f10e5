"""The administration API under `/api/`: a table of routes, from which requests are served and the API is described."""
