"""Protein backbones: a prior of C-alpha traces, and motif scaffolding with it."""
