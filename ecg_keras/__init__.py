"""What surrounds any network: train, predict, explain, export, evaluate, reproduce.

The public face of ECG-Keras; see ``load_model``, ``read_record`` and ``ecg_figure``.
"""
