"""What a terminal shows: the API's client, and text fit for it."""
