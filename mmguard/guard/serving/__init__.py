"""The Open Inference Protocol v2 over HTTP. Needs the extra `serve`; nothing else in mmguard imports it unasked."""
