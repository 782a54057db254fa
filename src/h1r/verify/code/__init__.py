"""Programs that an answer contains, run against the tests of their problem; `grade` is the way in."""
