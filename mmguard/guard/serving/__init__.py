"""Serves guards over HTTP with the Open Inference Protocol v2.

Serving needs the extra `serve`; the rest of mmguard works without this extra.
"""
