"""What changes the weights: optimizers, schedules, the recipe of all training options, averaging."""
