"""One child process: fetch, execute, settle."""
