"""Files that `jm.load` reads, altered at random: each ends in the value that was saved or in a FileFormatError.

`python -m tests.fuzz --help`; a bounded number of cases is in tests/test_fuzz.py.
"""
