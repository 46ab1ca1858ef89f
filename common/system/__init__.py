"""The machine and the process: files, errors, log, device, other processes. Nothing in here knows what an image is."""
