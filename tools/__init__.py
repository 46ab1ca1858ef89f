"""What the tools are made of that one uses with experiments: sweep.py, compare.py, pack.py. No experiment needs it."""
