"""The loops: sharding, resume, publishing, progress."""
