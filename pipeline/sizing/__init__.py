"""How many machines a catalogue needs: measured constants, formulas over them, and a command that prints the plan."""
