"""Reference recipes for speaker anonymization: train, run and attack anonymizers."""

__version__ = "0.1.0"
