"""What verify.py is made of: run folders are read, checked, done again, held against a task, and told of."""
