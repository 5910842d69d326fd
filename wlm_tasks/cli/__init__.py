"""The command line: parse, call the Python interface, show."""
