"""Explanations of predictions: methods, and an HTML page for each recording."""
