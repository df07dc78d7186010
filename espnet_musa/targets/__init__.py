"""Target policies: which pseudo-speaker or coefficient an utterance gets."""
