"""The tables and figures of a paper, and the trainings they need, each run once."""
