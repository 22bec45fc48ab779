"""One application in five frameworks: an order starts tasks at several moments."""
