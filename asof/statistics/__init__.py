"""Statistics of columns: frozen-edge histograms, design effects, whylogs profiles."""
