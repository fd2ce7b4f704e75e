"""What a bucket looks like as a tree of files. Knows no kernel and no HTTP."""
