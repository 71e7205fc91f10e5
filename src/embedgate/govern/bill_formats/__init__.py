"""Facts of the exports of vendors, one file for each."""
