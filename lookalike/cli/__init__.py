"""The command line: the table of commands, and the commands that call a running gateway."""
