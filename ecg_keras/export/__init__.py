"""Export of networks to files that run without Keras."""
