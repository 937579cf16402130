"""The tunnel: a farm's long-lived publisher on a head node, and its clients."""
