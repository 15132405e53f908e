"""How fast the counter is, as ratios to what the same stack answers without a database: `./run speed`."""
