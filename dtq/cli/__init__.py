"""The command line: parse, call, print; an error becomes an exit code."""
