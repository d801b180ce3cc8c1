"""What running a program shows: jobs in, verdicts out. Knows problems only."""
