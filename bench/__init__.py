"""Benchmark of the gateway: `make bench`, or `python -m bench --help`.

One run starts a loopback upstream, the gateway, and the named peers, drives all of them with the same load, and reports
the results with the machine, the versions and the command. Needs Linux: it reads /proc.
"""
