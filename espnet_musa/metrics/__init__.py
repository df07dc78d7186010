"""Pure functions: arrays in, dataclass or number out."""
