"""How the networks under attack are made."""
