"""Batch jobs on computers: what they are told to do, how they are started exactly once, and how their end is known.

What runs them is in :mod:`treadle.engine.desk`; the protocol between the two ends is in :mod:`.protocol`.
"""
