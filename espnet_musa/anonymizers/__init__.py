"""One module per algorithm; see `base.Anonymizer`."""
