"""Backup and restore of the data folder: one archive, checked, put into place as a whole."""
