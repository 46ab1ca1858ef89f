"""What sweep.py is made of: the sweep file, its spaces, the storage, the trials, and the search that joins them."""
