"""Activation evidence: pool the activations of some sites, and compute what the test reads of them in a graph."""
