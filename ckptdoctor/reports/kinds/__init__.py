"""The kinds of report, one file each."""
