"""The benchmark, `./run bench`: what is measured (`suites`), on which servers (`servers`), and the `report`."""
