"""HTTP server: `app` routes, dialects translate, `respond` answers. No stage of the pipeline is here."""
