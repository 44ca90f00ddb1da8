"""Reads files that people have: folders of pictures, arrays, tables of labels, downloads."""
