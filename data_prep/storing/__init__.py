"""From folders of recordings to one store: download, find, build, resume."""
