"""What hostile clients do, to measure what a defence is worth."""
