"""A store in an SQLite file, for engines of one host."""
