"""The processes of the system on this machine: what they are, and a supervisor that starts and stops them."""
