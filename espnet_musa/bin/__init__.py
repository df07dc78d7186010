"""One module per verb: `python -m espnet_musa.bin.<verb>`."""
