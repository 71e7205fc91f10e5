"""The benchmark of the gateway: `make bench`, or `python -m bench --help`.

One run starts a loopback upstream, the gateway, and the peers that were asked for, drives all of them with the same
load, and writes what it saw with the machine, the versions and the command. Needs Linux: it reads /proc.
"""
