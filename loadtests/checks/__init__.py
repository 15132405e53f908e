"""What the counter's scenarios have in common: users who check what they are told, and books of all numbers given."""
