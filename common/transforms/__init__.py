"""What is done to whole batches of images, and the random numbers behind it."""
