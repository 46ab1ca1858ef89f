"""The command line that all experiments share."""
