"""Core types of the gateway: records, errors, ports, vectors, money. No I/O."""
