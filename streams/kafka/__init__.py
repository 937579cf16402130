"""Kafka itself: how a client is made, record batches, requests, our topics, a broker for this machine."""
