"""From answers and labels to scores, figures and a report; never imports Keras."""
