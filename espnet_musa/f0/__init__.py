"""F0 extraction and transforms, shared by all systems that expose F0."""
