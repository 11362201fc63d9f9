"""Reads the user's model, finds its clip sites, writes the clipped network and checks it, all offline with onnx."""
