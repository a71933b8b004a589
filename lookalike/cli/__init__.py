"""The command line: the dispatcher, and the commands that call a running gateway."""
