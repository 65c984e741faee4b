"""Comparison: networks trained under one recipe, with the same data order and seeds, and what can be said of it.

Import from its modules: this one is empty, so that the command line can read a plan without torch.
"""
