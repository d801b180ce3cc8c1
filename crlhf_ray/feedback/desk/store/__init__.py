"""Where people's work is kept: accounts, programs, leases and marks, in SQLite or PostgreSQL."""
