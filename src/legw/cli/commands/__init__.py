"""Commands, one file each: `Options`, whose docstrings are the help, and `run`."""
