"""What pods, people and Prometheus ask over HTTP. Uses every other room."""
