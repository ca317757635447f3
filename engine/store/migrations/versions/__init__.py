"""The migrations, one module each; once released, a module is never changed."""
