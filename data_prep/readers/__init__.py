"""One module per recording format: reads a file and returns named signals."""
