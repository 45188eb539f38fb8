"""Fitting any network on a store, so that a killed training loses nothing."""
