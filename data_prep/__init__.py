"""Everything around the networks: recordings and labels in, scores and reports out.

The package owns both array edges: what enters a model (millivolts, leads by name) and what
leaves it (probabilities in class order).  It never imports a model package.
"""
