"""Pure arithmetic on finished vectors; knows no engine, no web."""
