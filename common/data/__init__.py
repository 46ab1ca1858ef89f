"""From a data set's name to batches: reading, splitting."""
