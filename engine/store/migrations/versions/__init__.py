"""The migrations, one module each; once released, a module is never changed.

``engines_go_on`` says whether engines that know only the revision before can go on beside it: they name the columns
that they read and write, so tables, columns that have a default or may be NULL, and indexes may come; what they use may
not change or go, nor may the type of a column, since PostgreSQL refuses what was prepared for the one before. An
upgrade that has only such steps needs no engine stopped.
"""
