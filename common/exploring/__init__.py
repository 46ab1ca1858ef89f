"""Looking at the data before a network does: counts, sizes, pixels, copies."""
