"""The scenarios, in the order of the catalogue's letters; importing them fills `tests.faults.scenario.SCENARIOS`."""
