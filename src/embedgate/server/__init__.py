"""HTTP: dialects translate, `respond` answers, `app` routes. No stage of a request lives here."""
