"""Fault campaigns: real processes and servers, faults on purpose, and a checker that nobody has to trust."""
