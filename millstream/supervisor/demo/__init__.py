"""``millstream demo``: the files of a folder, analysed by several worker processes."""
