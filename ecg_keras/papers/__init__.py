"""The tables and figures of a paper: many trainings, each done once, and what they show."""
