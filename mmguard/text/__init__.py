"""Numbers and names as mmguard shows them."""
