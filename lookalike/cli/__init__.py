"""The command line: one table of commands, and the commands that ask a running gateway."""
