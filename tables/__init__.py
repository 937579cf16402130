"""What is: rows, their bytes, the store and its restore. Imports nothing of `livejobs.streams`."""
