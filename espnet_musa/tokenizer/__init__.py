"""Teachers, which turn speech into features, and tokenizers, which turn features into one token a frame."""
