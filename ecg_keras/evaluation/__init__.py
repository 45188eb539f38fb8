"""Scores, figures and reports from predictions and labels; never imports Keras."""
