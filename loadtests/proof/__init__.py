"""The same count as other stacks do it, each with packages of its own: what the counter is compared with."""
