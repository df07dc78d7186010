"""Kaldi data directories, tables, trials and audio; imports no torch."""
