"""Squeeze-and-Excitation networks: a block, the published family, and a trainer that ends in a usable network."""
