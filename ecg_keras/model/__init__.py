"""Model files: the Keras backend, the input and output contract, opening and saving."""
