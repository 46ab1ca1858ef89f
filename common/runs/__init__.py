"""The run folder: what is in it, how it is written, what a resume needs."""
