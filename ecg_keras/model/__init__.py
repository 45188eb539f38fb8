"""A network as a file: Keras itself, the contract of input and output, opening and saving."""
