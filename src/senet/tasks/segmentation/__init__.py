"""Segmentation: decoders on this package's networks, and networks of other libraries."""
