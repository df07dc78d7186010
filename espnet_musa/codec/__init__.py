"""The MUSA codec: speech encoder, speaker encoder, residual bottleneck, decoder, discriminators and losses."""
