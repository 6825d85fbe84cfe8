"""Statistics: frozen-edge histograms and the model's reference, design effects, ranking metrics, bootstrap intervals, whylogs profiles."""
