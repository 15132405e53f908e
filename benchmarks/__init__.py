"""The research instrument, `./run bench`: `suites` of measurements, the `servers` they need, and the `report`."""
