"""Activation evidence: pool the activations of some sites, and compute their distances within the runtime graph."""
