"""What predict.py is made of: a trained network and the images it is shown."""
