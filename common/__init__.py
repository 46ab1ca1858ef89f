"""What the experiments share: mechanisms only. Nothing in here knows an experiment by name."""
