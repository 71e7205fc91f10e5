"""Authentication, policies, rate limits and budgets."""
