"""A local web page to drop recordings on; needs ``pip install 'ecg-keras[serve]'``."""
