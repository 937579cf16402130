"""The worker: partitions opened, fed, committed and watched."""
