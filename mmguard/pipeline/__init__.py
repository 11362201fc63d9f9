"""From a model and a clean set to a guard bundle."""
