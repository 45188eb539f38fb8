"""From model files and recordings to answers."""
