"""Runs the command line as `python -m embedgate`."""

from embedgate.cli.main import run

if __name__ == "__main__":
    run()
