"""Which classifiers mmguard takes, found by trying: networks of timm, transformers and scikit-learn."""
