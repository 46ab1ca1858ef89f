"""Scores on the test images, and everything that is written down of them."""
