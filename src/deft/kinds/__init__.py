"""Kinds of data, and what is drawn of them: the record that images, proteins, series, ... each fill in, and `Draws`."""
