"""What the counter's scenarios share: users who check each answer, and a ledger of all numbers given."""
