"""The command line. Heavy modules are imported inside commands, so that `--help` and mistakes answer at once."""
