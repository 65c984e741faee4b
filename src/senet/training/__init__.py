"""Training: a recipe (what), a Lightning module, and `fit` (run it).

Import from its modules: this one is empty, so that the command line can read a recipe's options without torch.
"""
