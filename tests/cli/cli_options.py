"""Options that make a training short."""

QUICK = ["--size", "16", "--epochs", "2", "--batch-size", "32", "--lr", "0.1", "--workers", "0"]
