"""The C backend: a fused loop over time for any spec, printed as C, built by the machine's compiler at first use."""
