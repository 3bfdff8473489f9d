"""How fast modeconn is, beside PyTorch as its tutorials write it; see README.md in this folder."""
