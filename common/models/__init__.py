"""What there is to know and to do about a network, whichever it is."""
