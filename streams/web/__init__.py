"""`livejobs web`: the view of the topics, the API over it, and the page."""
