"""The checks of the counter's scenarios: users who check each answer, and a ledger of all numbers."""
