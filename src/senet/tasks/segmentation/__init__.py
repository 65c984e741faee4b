"""A class for each pixel: decoders on this package's networks."""
