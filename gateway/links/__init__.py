"""How destinations name customers: said in the configuration, put by people, or looked up at the provider."""
