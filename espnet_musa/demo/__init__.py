"""The page in the browser: a local server that anonymizes a recording and shows what changed."""
