"""Corpus preparers: `prepare(out, ...) -> names of the sets written`."""
