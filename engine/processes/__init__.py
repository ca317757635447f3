"""Processes: the state machine, work chains, their outlines and process functions."""
