"""Trained encoders for other programs: the folder that `fastvarcon export` writes, and its model card."""
