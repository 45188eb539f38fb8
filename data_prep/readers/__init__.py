"""One file for each format of recordings: bytes in, named signals out."""
