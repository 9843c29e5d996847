"""What is written and read back: files, what they are of, ranks that share a folder, and runs that
are resumed.

Nothing is imported here: the modules bear the names of what they hold.
"""
