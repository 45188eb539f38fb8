"""Prepares a trained model for publication: a small model file and its model card."""
