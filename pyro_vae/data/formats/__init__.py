"""Data sets in files: IDX, arrays, folders of images."""
