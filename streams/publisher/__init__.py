"""The publisher: messages of a farm on their way to `job-events`."""
