"""From any ECG file to one store of labelled recordings in millivolts; never imports Keras."""
