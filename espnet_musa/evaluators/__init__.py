"""Scorers: two data directories in, metrics out."""
