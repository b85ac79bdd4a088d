"""Programs that compute vectors when told to, one per engine, each in an environment of its own."""
