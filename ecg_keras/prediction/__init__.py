"""Predicting from recordings with one network or an ensemble."""
