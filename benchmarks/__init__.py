"""Speed and memory of both networks and of the data path; ``python -m benchmarks`` runs it all."""
