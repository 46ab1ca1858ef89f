"""Using a trained network, from the tools or from your own code."""
