"""The model as a PyTorch module, so that gradients reach its inputs and the bounds on its activations."""
