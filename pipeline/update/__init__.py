"""`lookalike update`: a new release from a catalogue, in steps that can each be run, stopped and taken up again.

plan → encode → train → build → verify → publish → watch → reencode → retain, one module each; `run` composes them.
"""
