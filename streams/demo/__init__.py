"""The demo: a farm, simulated on this machine."""
