"""Real servers and processes for the tests, the load tests and the benchmarks: databases, Hypercorn, nginx, Docker."""
