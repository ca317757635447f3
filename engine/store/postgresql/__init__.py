"""A store in a PostgreSQL database, for engines of many hosts."""
