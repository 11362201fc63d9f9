"""Try out which classifiers of timm, transformers and scikit-learn mmguard can guard."""
