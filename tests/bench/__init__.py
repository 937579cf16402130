"""The project's benchmark: `make bench`. README.md in this folder says what is measured, and how to read it."""
