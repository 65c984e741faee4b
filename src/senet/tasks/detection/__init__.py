"""Boxes around objects: torchvision's detectors on this package's networks."""
