"""Anyone's network as named tensors: modules, state dicts, files, folders."""
