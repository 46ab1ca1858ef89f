"""What compare.py is made of: runs are read, grouped by seed, contrasted, and shown as tables, pictures and a page."""
