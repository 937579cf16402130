"""What happens: messages, the fold, the worker, the publisher. Imports `livejobs.tables`, never the other way round."""
