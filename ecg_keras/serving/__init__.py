"""A local web page for uploading recordings; needs ``pip install 'ecg-keras[serve]'``."""
