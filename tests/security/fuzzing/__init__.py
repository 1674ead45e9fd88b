"""Mutation fuzzing: thousands of almost good files a format, each read by us and by a reference.

A `Target` (targets.py) is a format: its good files (seeds.py), how they are changed (mutators in blocks.py, opcodes.py,
archives.py, documents.py), how we read one (ours.py) and how others do (references.py). campaign.py makes mutants by number,
has a forked child try them, and fails with what it found. A mutant is a function of format, seed and number.
"""
