"""Speed and memory (``python -m benchmarks``), and two studies: leaderboard, least_threshold."""
