"""The public APIs: one file each, wire JSON to core types and back, and the error table of that API."""
