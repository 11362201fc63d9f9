"""Scripts that train backdoored networks and measure mmguard on them; no part of the installed package."""
