"""What is kept: accounts, keys and one row per request, in SQLite or PostgreSQL. SQL stands here and nowhere else."""
