"""Detection: torchvision's detectors on this package's networks."""
