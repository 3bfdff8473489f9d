"""Before two networks are averaged: what their files say, whether there is a barrier, and what removes it."""
