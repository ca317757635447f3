"""Where processes live: schema, migrations, the store thread and readers."""
