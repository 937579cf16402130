"""The rules: messages folded into the tables of one partition (pure)."""
