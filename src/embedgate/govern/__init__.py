"""Administration: one module for each subject, with its records, SQL, rules, audit events and operations."""
